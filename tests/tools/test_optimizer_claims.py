"""SharpZO against the optimizers of a recorded table."""

from __future__ import annotations

from pathlib import Path

from tools.maintain.optimizer_claims import read, tables

HEAD = "name,set,budget,settings,seed,queries,cpu_seconds,train_loss,val_loss,val_accuracy,test_loss,test_accuracy\n"


def test_rivals_are_judged_by_accuracy_and_training_loss_per_set_and_in_the_mean(tmp_path: Path) -> None:
    rows = []
    for seed in range(1, 6):
        noise = 0.01 * seed**2
        for one in ("a", "b"):
            rows.append(f"sharpzo,{one},5000,,{seed},5000,1,1.0,0,0,1.0,{60 + noise + seed}")
            rows.append(f"bbt,{one},5000,,{seed},5000,1,{0.8 + noise / 10},0,0,1.1,{62 + seed}")
            # another budget has no part
            rows.append(f"bbt,{one},20000,,{seed},20000,1,0.1,0,0,0.1,99")
        rows.append(f"mezo,a,5000,,{seed},5000,1,1.0,0,0,1.0,{60 + seed}")
    (tmp_path / "equal.csv").write_text(HEAD + "\n".join(rows) + "\n")
    short, full = tables(read(tmp_path / "equal.csv"))
    told = {(row[0], row[1]): row[2:] for row in full.rows}
    assert [(row[0], row[1], row[-1]) for row in short.rows] == [
        ("SharpZO above BBT", "mean of 2 sets", "0 / 2 / 0"),
        ("SharpZO above MeZO", "a", "–"),
    ]
    points, accuracy, loss, training, _ = told["SharpZO above BBT", "mean of 2 sets"]
    assert points.startswith("−1.89") and loss.startswith("+0.19") and (accuracy, training) == ("fails", "fails")
    assert ("SharpZO above MeZO", "a") in told
    assert ("SharpZO above MeZO", "b") not in told and ("SharpZO above MeZO", "mean of 2 sets") not in told
