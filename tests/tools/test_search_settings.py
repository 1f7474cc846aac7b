"""The settings search judges by validation cross-entropy alone, and runs its finalists again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.artifacts import finish
from tools.maintain import search_settings as search


def fill(trials: list[search.Trial], losses: dict[str, float]) -> None:
    for _, settings, job in trials:
        finish(job)
        path = job.path / "result.json"
        numbers = {"val_loss": losses[settings], "val_accuracy": 10.0, "train_loss": 1.0}
        path.write_text(json.dumps(json.loads(path.read_text()) | numbers))


def test_better_two_run_again_and_the_last_word_is_the_mean_over_both_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "TABLE", tmp_path / "search.csv")
    where = ["--output_dir", str(tmp_path), "--methods", "mezo"]
    monkeypatch.setitem(search.GRIDS, "mezo", ("zo_lr=4.0", "zo_lr=2.0", "zo_lr=1.0", "zo_lr=0.5"))
    screened = list(search.trials({"mezo": search.GRIDS["mezo"]}, search.SEEDS[0], str(tmp_path)))
    a, b, c, d = search.GRIDS["mezo"]
    fill(screened[:-1], {a: 2.0, b: 1.0, c: 1.2, d: 3.0})
    assert search.finalists(screened) == {}
    fill(screened, {a: 2.0, b: 1.0, c: 1.2, d: 3.0})
    assert search.finalists(screened) == {"mezo": [b, c]}
    assert search.main(["run", "--print-commands", *where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all("--seed 102" in line for line in lines)
    fill(list(search.trials({"mezo": [b, c]}, search.SEEDS[1], str(tmp_path))), {b: 2.0, c: 1.2})
    assert search.main(["write", *where]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"mezo: {c}: validation cross-entropy 1.2000"
    assert len((tmp_path / "search.csv").read_text().splitlines()) == 1 + 8 + 4


def test_every_method_has_as_many_settings() -> None:
    assert {len(set(settings)) for settings in search.GRIDS.values()} == {6}


def test_nothing_to_write_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search.main(["write", "--output_dir", str(tmp_path)]) == 2
    assert "holds no finished run of this search" in capsys.readouterr().err
