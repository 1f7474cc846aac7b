"""The output of a run, and its reproducibility."""

from __future__ import annotations

import json
import random
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import main_sharpzo
from clip.prompt import load_prompt
from tests.helpers.outcomes import FEW, FLAGS, TINY, Call, Outcome, contents


def test_a_run_leaves_exactly_the_promised_files(finished: Outcome) -> None:
    assert finished.status == 0
    promised = {"config.yaml", "env.json", "log.txt", "metrics.jsonl", "prompt.safetensors", "result.json", "split.json"}
    assert {path.name for path in finished.path.iterdir()} == promised


def test_result_names_the_run_and_gives_accuracies_in_percent(finished: Outcome) -> None:
    result = finished.result
    about = {key: result[key] for key in ("dataset", "trainer", "backbone", "shots", "seed")}
    assert about == {"dataset": "digits", "trainer": "sharpzo", "backbone": "Mini", "shots": 16, "seed": 1}
    for key in ("zero_shot_accuracy", "test_accuracy"):
        # a percentage of 531 images; far above 1, which chance alone (10 %) would exceed
        assert 1 < result[key] <= 100
        assert result[key] * 531 / 100 == pytest.approx(round(result[key] * 531 / 100))
    assert result["val_accuracy"] * 40 / 100 == pytest.approx(round(result["val_accuracy"] * 40 / 100))
    assert result["queries"] == finished.metrics[-1]["queries"]
    assert result["seconds"] == finished.metrics[-1]["seconds"] > 0


def test_result_holds_the_cross_entropies_of_the_saved_prompt(finished: Outcome, call: Call) -> None:
    result, last = finished.result, finished.metrics[-1]
    assert result["train_loss"] == pytest.approx(last["train_loss"], rel=1e-5)
    assert len({result[f"{part}_loss"] for part in ("train", "val", "test")}) == 3
    scored = call("--load_prompt", str(finished.path / "prompt.safetensors"), folder="digits/saved/Mini/sharpzo-from-digits")
    (written,) = scored.path.rglob("result.json")
    assert json.loads(written.read_text())["test_loss"] == pytest.approx(result["test_loss"], rel=1e-5)


def test_metrics_record_every_step_with_its_stage_and_figures(finished: Outcome) -> None:
    metrics = finished.metrics
    assert [entry["step"] for entry in metrics] == list(range(7))
    assert [entry["stage"] for entry in metrics[1:]] == [1, 1, 1, 2, 2, 2]
    for entry in metrics[1:]:
        figures = {"seconds", "loss", "grad_norm"} | ({"sigma"} if entry["stage"] == 1 else set())
        assert all(type(entry[key]) is float and entry[key] > 0 for key in figures)
    seconds = [entry["seconds"] for entry in metrics]
    assert seconds == sorted(seconds)


def test_validation_is_logged_every_eval_every_steps(finished: Outcome) -> None:
    evaluated = [entry["step"] for entry in finished.metrics if "val_accuracy" in entry]
    assert evaluated == [0, 2, 4, 6]
    assert [entry["step"] for entry in finished.metrics if "train_loss" in entry] == evaluated
    # digits.yaml enables evaluation during the run
    assert [entry["step"] for entry in finished.metrics if "test_accuracy" in entry] == evaluated


def test_queries_are_2d_plus_s_a_stage_1_step_and_2_a_stage_2_step_and_2d_a_mask_refresh(finished: Outcome) -> None:
    stage_1 = 2 * 4 + 4
    refresh = 2 * 4
    costs = [0, stage_1, stage_1, stage_1, 2 + refresh, 2, 2 + refresh]
    assert [entry["queries"] for entry in finished.metrics] == np.cumsum(costs).tolist()


def test_dense_stage_2_with_q_samples_costs_2q_per_step(call: Call) -> None:
    flags = [*FEW, "--total_steps", "3", "--prompt_trainer", "zo", "--num_pertub", "3"]
    run = call(*flags, folder="digits/zo/Mini/1shots/seed1")
    assert [entry["queries"] for entry in run.metrics] == [0, 12, 18, 24]


def test_split_is_in_coops_form_with_16_and_4_per_class(finished: Outcome) -> None:
    split = finished.split
    assert set(split) == {"train", "val"}
    for part, shots in (("train", 16), ("val", 4)):
        assert all(type(path) is str and type(label) is int and type(name) is str for path, label, name in split[part])
        assert Counter(label for _, label, _ in split[part]) == dict.fromkeys(range(10), shots)
    assert len({path for part in split.values() for path, _, _ in part}) == 200


def test_prompt_loads_and_its_context_is_p0_plus_a_times_w(finished: Outcome) -> None:
    tensors, about = load_prompt(finished.path / "prompt.safetensors")
    p0, A, w, context = (tensors[name].numpy() for name in ("p0", "A", "w", "context"))
    assert (p0.shape, A.shape, w.shape) == ((4, 128), (512, 4), (4,))
    assert np.allclose(context, p0 + (A @ w).reshape(4, 128), rtol=0, atol=1e-12)
    assert not np.allclose(context, p0)
    assert {key: about[key] for key in ("dataset", "backbone", "ctx_init", "shots", "seed")} == {
        "dataset": "digits",
        "backbone": "Mini",
        "ctx_init": "a photo of a",
        "shots": 16,
        "seed": 1,
    }
    assert about["classnames"][:3] == ["zero", "one", "two"]


def test_log_closes_with_the_lines_that_coops_parser_reads(finished: Outcome) -> None:
    accuracy = finished.result["test_accuracy"]
    assert finished.log[-5:] == [
        "Finish training",
        "=> result",
        "* total: 531",
        f"* correct: {round(accuracy * 531 / 100)}",
        f"* accuracy: {accuracy:.2f}%",
    ]


def test_what_is_printed_is_what_is_logged(call: Call) -> None:
    run = call(*FEW, folder="digits/sharpzo/Mini/1shots/seed1")
    assert (run.status, run.err) == (0, "")
    assert run.out.splitlines() == run.log


def test_config_of_a_run_has_every_setting_and_repeats_the_run(finished: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    config = finished.config
    assert {key: config[key] for key in TINY} == TINY
    assert (config["dataset"], config["template"], config["zo_eps_mask"]) == ("digits", "a photo of a {}.", 1e-5)
    before = contents(finished.path)
    assert main_sharpzo.main(["--config", str(finished.path / "config.yaml")]) == 0
    assert "finished already" in capsys.readouterr().out
    assert contents(finished.path) == before


def test_environment_of_a_run_is_recorded(finished: Outcome) -> None:
    env = json.loads((finished.path / "env.json").read_text())
    assert env["packages"]["torch"] == metadata.version("torch")
    assert {"command", "python", "commit", "machine", "device"} <= set(env)


def test_same_command_gives_the_same_run_even_after_another_seed(finished: Outcome, call: Call) -> None:
    other = call(*FLAGS, "--seed", "2", folder="digits/sharpzo/Mini/16shots/seed2")
    assert (other.status, other.result["seed"]) == (0, 2)
    assert other.untimed_metrics != finished.untimed_metrics
    assert other.split != finished.split
    again = call(*FLAGS)
    assert again.untimed_metrics == finished.untimed_metrics
    assert again.prompt == finished.prompt
    assert again.split == finished.split


def test_global_generators_have_no_say_and_are_left_alone(finished: Outcome, call: Call) -> None:
    random.seed(11)
    np.random.seed(12)  # noqa: NPY002
    torch.manual_seed(13)

    def states() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    run = call(*FLAGS)
    after = states()
    assert run.prompt == finished.prompt
    assert after[0] == before[0], "random"
    assert after[1] == before[1], "numpy"
    assert after[2] == before[2], "torch"


def test_run_builds_no_graph_and_changes_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clip import backbone

    models, load = [], backbone.load_backbone

    def remember(*args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        models.append((loaded.model, {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}))
        return loaded

    def refuse(tensor: torch.Tensor) -> None:
        raise AssertionError("a tensor was saved for backpropagation")

    monkeypatch.setattr(backbone, "load_backbone", remember)
    tiny = ["--intrinsic_dim", "4", "--popsize", "4", "--total_steps", "4", "--change_point", "2", "--eval_every", "1"]
    with torch.autograd.graph.saved_tensors_hooks(refuse, refuse):
        assert main_sharpzo.main([*tiny, "--output_dir", str(tmp_path)]) == 0
        with pytest.raises(AssertionError, match="backpropagation"):
            main_sharpzo.main([*tiny, "--prompt_trainer", "fo", "--output_dir", str(tmp_path)])
    model, before = models[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_threads_of_one_run_do_not_leak_into_the_next(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    assert main_sharpzo.main(["--threads", "1", "--prompt_trainer", "zero-shot", "--output_dir", str(tmp_path)]) == 0
    assert torch.get_num_threads() == before
