"""--patience: a run ends when validation accuracy stops rising, and its solution is the best by validation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from main_sharpzo import main
from tests.helpers.runs import FLAGS, folder_of, outcome, stop_in_call, whole_and_resumed
from trainers import TRAINERS
from utils.interrupt import Interrupted

PATIENT = [*FLAGS, "--eval_every", "1", "--patience", "2", "--total_steps", "30", "--popsize", "6"]
TUNED = [name for name, info in TRAINERS.items() if info.trains]


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def expected(accuracies: list[float], patience: int) -> tuple[int, int]:
    """The best step, and the last one, of a run with these validation accuracies per step."""
    best = 0
    for step, accuracy in enumerate(accuracies):
        if accuracy > accuracies[best]:
            best = step
        if step - best == patience:
            return best, step
    return best, len(accuracies) - 1


@pytest.mark.parametrize("trainer", TUNED)
def test_run_ends_after_the_patience_with_its_best_prompt(trainer: str, tmp_path: Path, one_mini: None) -> None:
    flags = [*PATIENT, "--prompt_trainer", trainer, "--output_dir", str(tmp_path)]
    assert main(flags) == 0
    folder = folder_of(tmp_path, trainer)
    accuracies = [entry["val_accuracy"] for entry in metrics(folder)]
    best, last = expected(accuracies, 2)
    assert len(accuracies) == last + 1
    result = json.loads((folder / "result.json").read_text())
    assert (result["best_step"], result["val_accuracy"]) == (best, accuracies[best])
    [line] = [line for line in (folder / "log.txt").read_text().splitlines() if line.startswith("--patience 2: ")]
    stopped = last - best == 2
    assert line.startswith(f"--patience 2: stopped after step {last}; " if stopped else "--patience 2: not reached; ")
    assert line.endswith(f"the solution is that of step {best}, the best by validation ({accuracies[best]:.1f}%)")
    # the saved prompt was scored
    prompt = str(folder / "prompt.safetensors")
    assert main(["--load_prompt", prompt, "--output_dir", str(tmp_path / "scored"), "--threads", "1"]) == 0
    [scored] = (tmp_path / "scored").rglob("result.json")
    assert json.loads(scored.read_text())["test_accuracy"] == result["test_accuracy"]


@pytest.mark.parametrize("trainer", ["sharpzo", "mezo", "coop", "craft", "bbt"])
def test_resumed_run_ends_like_an_uninterrupted_run(
    trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_mini: None
) -> None:
    flags = [*PATIENT, "--patience", "6", "--zo_lr", "1"]
    whole, resumed = whole_and_resumed(flags, trainer, tmp_path, monkeypatch, queries=(4, 2))
    assert outcome(resumed) == outcome(whole)


def test_result_is_that_of_the_best_step_and_not_of_the_last(tmp_path: Path, one_mini: None) -> None:
    """Steps far too long spoil the prompt at once."""
    flags = [*FLAGS, "--prompt_trainer", "mezo", "--zo_lr", "30000", "--eval_every", "1", "--total_steps", "6", "--eval_test"]
    for name, patience in (("last", "0"), ("best", "5")):
        assert main([*flags, "--patience", patience, "--output_dir", str(tmp_path / name)]) == 0
    last, best = (json.loads((folder_of(tmp_path / name, "mezo") / "result.json").read_text()) for name in ("last", "best"))
    accuracies = [entry["test_accuracy"] for entry in metrics(folder_of(tmp_path / "best", "mezo"))]
    assert best["test_accuracy"] == accuracies[0] == accuracies[best["best_step"]]
    assert last["test_accuracy"] == accuracies[-1] < accuracies[0]
    assert "best_step" not in last


def test_patience_identifies_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    flags = [*FLAGS, "--output_dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        stop_in_call(patch, 3, Interrupted("test"))
        assert main(flags) == 3
    assert main([*flags, "--patience", "3"]) == 2
    assert "patience (0 in that run, 3 now)" in capsys.readouterr().err


def test_patience_without_evaluations_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*FLAGS, "--patience", "3", "--eval_every", "0", "--output_dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: --patience: counts evaluations during the run; set --eval_every")
