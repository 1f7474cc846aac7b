"""Whole runs of every trainer: budgets, query counts, change points and divergence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import main_sharpzo
from tests.helpers.outcomes import FEW, FLAGS, Call, Outcome
from trainers import TRAINERS


def test_no_save_model_writes_no_prompt(call: Call) -> None:
    run = call(*FEW, "--no-save_model", folder="digits/sharpzo/Mini/1shots/seed1")
    assert (run.path / "result.json").is_file()
    assert not (run.path / "prompt.safetensors").exists()


# stage 1 ends at 36 queries; the steps after it cost 10, 2 and 10
@pytest.mark.parametrize(("limit", "steps", "queries"), [(12, 1, 12), (45, 3, 36), (46, 4, 46), (57, 5, 48)])
def test_step_that_max_queries_has_no_room_for_is_not_started(limit: int, steps: int, queries: int, call: Call) -> None:
    run = call(*FLAGS, "--shots", "1", "--max_queries", str(limit), folder="digits/sharpzo/Mini/1shots/seed1")
    assert run.status == 0
    assert (run.metrics[-1]["step"], run.metrics[-1]["queries"], run.result["queries"]) == (steps, queries, queries)
    assert "val_accuracy" in run.metrics[-1]
    told = f"note: --max_queries {limit} ended the run at step {steps}, before stage 2"
    assert (told in run.out) == (steps <= 3)


def test_limit_below_the_first_step_is_refused_before_anything_is_written(call: Call, tmp_path: Path) -> None:
    run = call(*FLAGS, "--shots", "1", "--max_queries", "11")
    run.assert_refused("--max_queries: 11: the first step alone takes 12 queries")
    assert not (tmp_path / "outputs").exists()


def test_eval_test_logs_test_accuracy_and_changes_nothing_else(call: Call) -> None:
    folder = "digits/sharpzo/Mini/1shots/seed1"
    plain = call(*FEW, "--no-eval_test", folder=folder)
    prompt = plain.prompt
    assert not any("test_accuracy" in entry for entry in plain.metrics)
    run = call(*FEW, "--eval_test", "--overwrite", folder=folder)
    assert run.metrics[-1]["test_accuracy"] == run.result["test_accuracy"]
    assert run.prompt == prompt


def test_zero_shot_costs_no_queries_and_draws_no_images(call: Call) -> None:
    run = call(*FEW, "--prompt_trainer", "zero-shot", folder="digits/zero-shot/Mini/1shots/seed1")
    result = run.result
    assert (run.status, result["queries"], result["trainer"]) == (0, 0, "zero-shot")
    assert result["test_accuracy"] == result["zero_shot_accuracy"]
    assert run.split == {"train": [], "val": []}
    assert not (run.path / "prompt.safetensors").exists()
    assert run.log[-3] == "* total: 531"


def test_zero_shot_accuracy_is_that_of_the_zero_shot_trainer(finished: Outcome, call: Call) -> None:
    run = call("--prompt_trainer", "zero-shot", folder="digits/zero-shot/Mini/16shots/seed1")
    assert run.result["test_accuracy"] == finished.result["zero_shot_accuracy"]


@pytest.mark.parametrize("trainer", [name for name in TRAINERS if name != "saved"])
def test_every_trainer_runs_and_counts_its_queries(trainer: str, call: Call) -> None:
    # ZIP shares its intrinsic dimensions out to eight tokens
    flags = ["--intrinsic_dim", "16"] if trainer.startswith("zip") else []
    run = call(*FEW, *flags, "--prompt_trainer", trainer, folder=f"digits/{trainer}/Mini/1shots/seed1")
    assert (run.status, run.err) == (0, "")
    queries = {"sharpzo": 12 + 10, "zo": 12 + 2, "cma-es": 12 + 12, "fo": 2, "zero-shot": 0}
    queries |= {"bbt": 2 * 4, "zip": 2 * 10, "zip-20k": 2 * 10, "coop": 2, "craft": 2 * (4 + 1)}
    queries |= {"blackvip": 2 * 10, "bpt-vlm": 2 * 4}
    # 2q at q = 1, 2d or polytope vertices, 5, 16 tangents, m + n points
    queries |= dict.fromkeys(("mezo", "sparse-mezo", "zo-sign", "zo-momentum", "zo-adam", "lozo"), 2 * 2)
    queries |= {"cge": 2 * 8, "polystep": 2 * 8, "zo-conservative": 2 * 5, "forward-gradient": 2 * 16, "rank-sgd": 2 * (16 + 5)}
    queries |= {"sep-cma": 2 * 4, "spsa": 2 * 10, "tip-adapter": 0, "linear-probe": 0}
    # the references without prompts make no queries; 2d, 2d + 1, 2 · 20 pairs, 4 + 3 ln d, then what each paper's step takes
    queries |= {"adam-cge": 2 * 8, "lbfgs": 2 * 9, "openai-es": 2 * 40, "plain-cma": 2 * 8, "fzoo": 2 * 9, "r-adazo": 2 * 11}
    queries |= {"conmezo": 2 * 2, "curvzo": 2 * 2, "zoar": 2 * 10, "guided-es": 2 * 16, "zosa": 2 * 18, "zest": 2 * 16}
    queries |= {"loren": 2 * 6, "bszo": 2 * 3, "sharpzo+": 2 * 9}
    assert (run.result["trainer"], run.result["queries"]) == (trainer, queries[trainer])


def test_released_fidelity_runs_and_computes_something_else(call: Call) -> None:
    folder = "digits/zo/Mini/1shots/seed1"
    flags = [*FLAGS, "--shots", "1", "--prompt_trainer", "zo"]
    paper = call(*flags, folder=folder)
    prompt, losses = paper.prompt, [entry["loss"] for entry in paper.metrics[1:]]
    released = call(*flags, "--fidelity", "released", "--overwrite", folder=folder)
    assert (released.status, released.result["queries"]) == (0, 36 + 6)
    assert released.prompt != prompt
    assert [entry["loss"] for entry in released.metrics[1:]] != losses


def test_change_point_auto_starts_stage_2_after_ten_steps_without_a_rise(call: Call) -> None:
    # a projection this small changes no prompt noticeably, so validation accuracy stays constant
    flags = [*FLAGS, "--shots", "1", "--change_point", "auto", "--total_steps", "12", "--std", "1e-9"]
    run = call(*flags, folder="digits/sharpzo/Mini/1shots/seed1")
    assert (run.status, run.config["change_point"]) == (0, "auto")
    assert [entry["stage"] for entry in run.metrics[1:]] == [1] * 10 + [2] * 2


def test_loss_that_is_not_finite_ends_the_run_with_status_1_and_one_line(call: Call) -> None:
    folder = "digits/sharpzo/Mini/1shots/seed1"
    run = call(*FEW, "--sigma", "1e300", "--bound", "0", folder=folder)
    assert run.status == 1
    assert re.fullmatch(r"error: [^\n]*--sigma[^\n]*\n", run.err)
    assert not (run.path / "result.json").exists()


@pytest.mark.parametrize("trainer", ["fo", "sharpzo"])
def test_run_whose_last_step_diverges_ends_with_one_line_and_no_result(
    trainer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--prompt_trainer", trainer, "--zo_lr", "1e300", "--output_dir", str(tmp_path)]
    tiny = ["--intrinsic_dim", "4", "--popsize", "4", "--total_steps", "3", "--change_point", "1", "--eval_every", "0"]
    assert main_sharpzo.main([*flags, *tiny]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: loss") and "\n" not in error
    assert not list(tmp_path.rglob("result.json"))
    assert "NaN" not in "".join(path.read_text() for path in tmp_path.rglob("metrics.jsonl"))
