"""The figure of accuracy against queries: every given folder is drawn, and a folder without curves is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools import plot_accuracy
from tools.common.names import title

pytest.importorskip("matplotlib")


def write_runs(folder: Path, trainer: str) -> Path:
    result = {"trainer": trainer, "dataset": "digits", "backbone": "Mini", "shots": 2, "zero_shot_accuracy": 55.0}
    for seed in (1, 2):
        run = folder / trainer / f"seed{seed}"
        run.mkdir(parents=True)
        entries = [{"step": s, "stage": 1, "queries": 40 * s, "val_accuracy": 50 + s, "test_accuracy": 50 + s} for s in range(3)]
        (run / "config.yaml").write_text("dataset: digits\n")
        (run / "result.json").write_text(json.dumps(result))
        (run / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder / trainer


def plot(monkeypatch: pytest.MonkeyPatch, *argv: object) -> int:
    monkeypatch.setattr(sys, "argv", ["plot_accuracy", *map(str, argv)])
    return plot_accuracy.main()


def test_every_folder_is_drawn_in_a_style_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.extend(figure.axes[0].get_lines()))
    trainers = ("zo-pruned", "zo", "bbt", "zip", "mezo", "spsa")
    folders = [write_runs(tmp_path, trainer) for trainer in trainers]
    assert plot(monkeypatch, *folders, "--output", tmp_path / "figure.png") == 0
    curves = [line for line in drawn if ", digits, " in str(line.get_label())]
    assert all(line.get_label().startswith(title(name)) for line, name in zip(curves, trainers, strict=True))
    assert len({(line.get_linestyle(), line.get_color()) for line in curves}) == len(trainers)
    assert all(list(line.get_xdata()) == [0.0, 0.04, 0.08] and list(line.get_ydata()) == [50, 51, 52] for line in curves)


@pytest.mark.parametrize("lost", ["metrics.jsonl", "result.json"])
def test_folder_without_curves_is_refused_in_one_line(
    lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_runs(tmp_path, "zo")
    (folder / "seed2" / lost).unlink()
    assert plot(monkeypatch, folder, "--output", tmp_path / "figure.png") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "seed2" in error and error.count("\n") == 1
    assert not (tmp_path / "figure.png").exists()
