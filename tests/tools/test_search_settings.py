"""The settings search judges only by held-out cross-entropy, and reruns its finalists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import main_sharpzo
from tests.helpers.artifacts import finish
from tools.common.runs import FinishedRun, Job, read_run
from tools.maintain import search_settings as search
from tools.maintain.held_out import HeldOut


def fill(trials: list[search.Trial], losses: dict[str, float]) -> None:
    for _, settings, job in trials:
        finish(job)
        path = job.path / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"losses": losses[settings], "train_loss": 1.0}))


class Judge:
    """Scores as the run's file says, in place of the prompt's."""

    def scores(self, run: FinishedRun) -> dict[str, float]:
        return {"val_loss": run.result["losses"], "val_accuracy": 10.0, "pictures": 288.0}


def test_better_two_run_again_and_the_last_word_is_the_mean_over_both_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "TABLE", tmp_path / "search.csv")
    monkeypatch.setattr(search, "HeldOut", Judge)
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
    assert capsys.readouterr().out.splitlines()[0] == f"mezo: {c}: held-out cross-entropy 1.2000"
    assert len((tmp_path / "search.csv").read_text().splitlines()) == 1 + 8 + 4


def test_no_rival_has_fewer_settings_than_sharpzo() -> None:
    counts = {method: len(set(settings)) for method, settings in search.GRIDS.items()}
    assert min(counts.values()) == counts["sharpzo"] == 6


def test_nothing_to_write_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search.main(["write", "--output_dir", str(tmp_path)]) == 2
    assert "holds no finished run of this search" in capsys.readouterr().err


def test_pictures_that_judge_a_run_are_those_of_train_and_val_that_it_did_not_draw(tmp_path: Path) -> None:
    about = ("--config", search.BUDGET, "--dataset", "icons_emoji", "--output_dir", str(tmp_path), "--prompt_trainer", "bbt")
    job = Job((*about, "--shots", "1", "--max_queries", "40"))
    assert main_sharpzo.main(list(job.flags)) == 0
    judge = HeldOut()
    scores = judge.scores(read_run(job.path))
    # 360 and 72 pictures of nine classes
    assert scores["pictures"] == 360 + 72 - 9
    assert 0 < scores["val_accuracy"] < 100 and 0.5 < scores["val_loss"] < 10
    (job.path / "split.json").write_text(json.dumps({"train": [], "val": [], "test": []}))
    assert judge.scores(read_run(job.path))["pictures"] == 360 + 72
