"""Whole runs through `main`: what they leave behind, that they repeat, and how they are refused."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import main_sharpzo
from clip.prompt import load_prompt
from trainers import TRAINERS

TINY = {"intrinsic_dim": 4, "popsize": 4, "total_steps": 6, "change_point": 3, "prune_interval": 2, "eval_every": 2}
FLAGS = [text for key, value in TINY.items() for text in (f"--{key}", str(value))]
# one flag wins over an earlier one, so tests add what they change
FEW = [*FLAGS, "--shots", "1", "--total_steps", "2", "--change_point", "1"]
EUROSAT_CLASSES = ("AnnualCrop", "Forest", "River")


class Outcome:
    """The exit status and output of one call of `main`, and the run folder it was to write."""

    def __init__(self, status: int, out: str, err: str, path: Path):
        self.status, self.out, self.err, self.path = status, out, err, path

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.path / "result.json").read_text())

    @property
    def config(self) -> dict[str, Any]:
        return yaml.safe_load((self.path / "config.yaml").read_text())

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    @property
    def untimed_metrics(self) -> list[dict[str, Any]]:
        return [{key: value for key, value in entry.items() if "seconds" not in key} for entry in self.metrics]

    @property
    def log(self) -> list[str]:
        return (self.path / "log.txt").read_text().splitlines()

    @property
    def split(self) -> dict[str, list]:
        return json.loads((self.path / "split.json").read_text())

    @property
    def prompt(self) -> bytes:
        return (self.path / "prompt.safetensors").read_bytes()

    def assert_refused(self, *named: str) -> None:
        assert self.status == 2
        assert re.fullmatch(r"error: [^\n]+\n", self.err)
        for text in named:
            assert text in self.err


Call = Callable[..., Outcome]


@pytest.fixture
def call(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    """Calls main with output below tmp_path/outputs; `folder` is where under it the run is expected."""

    def run(*argv: str, folder: str = "digits/sharpzo/Mini/16shots/seed1") -> Outcome:
        capfd.readouterr()
        status = main_sharpzo.main(["--output_dir", str(tmp_path / "outputs"), *argv])
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err, tmp_path / "outputs" / folder)

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One finished run of FLAGS, shared by the tests that only read it."""
    root = tmp_path_factory.mktemp("finished")
    status = main_sharpzo.main([*FLAGS, "--output_dir", str(root)])
    return Outcome(status, "", "", root / "digits/sharpzo/Mini/16shots/seed1")


@pytest.fixture
def eurosat(tmp_path: Path) -> Path:
    """A root folder with a EuroSAT of three classes: 2 train, 1 val and 1 test image each."""
    folder = tmp_path / "data" / "eurosat"
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(EUROSAT_CLASSES):
        (folder / "2750" / name).mkdir(parents=True)
        for number, part in enumerate(("train", "train", "val", "test"), start=1):
            path = f"{name}/{name}_{number}.jpg"
            Image.new("RGB", (64, 64), (80 * label, 50 * number, 30)).save(folder / "2750" / path)
            split[part].append([path, label, name])
    (folder / "split_zhou_EuroSAT.json").write_text(json.dumps(split))
    return tmp_path / "data"


def eurosat_flags(root: Path, *more: str) -> list[str]:
    return ["--config", "configs/eurosat.yaml", "--root_path", str(root), "--backbone", "Mini", *FEW, *more]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below `folder`: its bytes and when it was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def drawn_images(root: Path, part: str) -> Iterator[Path]:
    split = json.loads((root / "eurosat" / "split_zhou_EuroSAT.json").read_text())
    return (root / "eurosat" / "2750" / path for path, _, _ in split[part])


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
    # digits.yaml asks for curves
    assert [entry["step"] for entry in finished.metrics if "test_accuracy" in entry] == evaluated


def test_queries_are_2d_plus_s_a_stage_1_step_and_2_a_stage_2_step_and_2d_a_mask_refresh(finished: Outcome) -> None:
    stage_1 = 2 * 4 + 4
    refresh = 2 * 4
    costs = [0, stage_1, stage_1, stage_1, 2 + refresh, 2, 2 + refresh]
    assert [entry["queries"] for entry in finished.metrics] == np.cumsum(costs).tolist()


def test_dense_stage_2_with_q_samples_costs_2q_a_step(call: Call) -> None:
    flags = [*FEW, "--total_steps", "3", "--prompt_trainer", "zo", "--num_pertub", "3"]
    run = call(*flags, folder="digits/zo/Mini/1shots/seed1")
    assert [entry["queries"] for entry in run.metrics] == [0, 12, 18, 24]


def test_split_is_in_coops_form_with_16_and_4_a_class(finished: Outcome) -> None:
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


def test_config_of_a_run_names_every_setting_and_asks_for_the_same_run_again(
    finished: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_finished_run_is_left_as_it_is_and_overwrite_runs_it_again(call: Call) -> None:
    folder = "digits/sharpzo/Mini/1shots/seed1"
    first = call(*FEW, folder=folder)
    before = contents(first.path)
    second = call(*FEW, folder=folder)
    assert (second.status, second.err) == (0, "")
    assert (
        second.out == f"{first.path}: finished already with zero-shot 59.70% → 59.70% (+0.00 points); --overwrite runs it again\n"
    )
    assert contents(first.path) == before
    (first.path / "stray").touch()
    third = call(*FEW, "--overwrite", folder=folder)
    assert (third.status, third.log[-5]) == (0, "Finish training")
    after = contents(first.path)
    assert set(after) == set(before)
    assert after["metrics.jsonl"][1] > before["metrics.jsonl"][1]


def test_unfinished_run_starts_over_and_says_so(call: Call) -> None:
    folder = "digits/sharpzo/Mini/1shots/seed1"
    first = call(*FEW, folder=folder)
    metrics, said = first.untimed_metrics, first.log
    (first.path / "result.json").unlink()
    (first.path / "metrics.jsonl").write_text('{"step": 0}\n{"ste')
    second = call(*FEW, folder=folder)
    assert second.status == 0
    assert second.log[0] == f"{first.path}: an earlier run did not finish and left no valid checkpoint; starting over"
    assert "did not finish" not in "".join(said)
    assert second.untimed_metrics == metrics
    assert second.result["queries"] == first.metrics[-1]["queries"]


def test_run_of_another_configuration_is_refused_by_key_unless_overwritten(call: Call) -> None:
    folder = "digits/sharpzo/Mini/1shots/seed1"
    first = call(*FEW, folder=folder)
    before = contents(first.path)
    other = [*FEW, "--sigma", "0.25"]
    call(*other).assert_refused("sigma (0.4 there, 0.25 now)")
    assert "popsize" not in call(*other).err
    assert contents(first.path) == before
    assert call(*other, "--overwrite", folder=folder).config["sigma"] == 0.25


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_folder_that_no_run_wrote_is_refused_and_left_alone(more: tuple[str, ...], call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "outputs/digits/sharpzo/Mini/1shots/seed1"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("precious")
    before = contents(tmp_path)
    call(*FEW, *more).assert_refused(str(folder), "is not a run folder")
    assert contents(tmp_path) == before


def test_empty_folder_is_used(call: Call, tmp_path: Path) -> None:
    folder = "digits/sharpzo/Mini/1shots/seed1"
    (tmp_path / "outputs" / folder).mkdir(parents=True)
    assert call(*FEW, folder=folder).result["shots"] == 1


@pytest.mark.parametrize("text", ["{", "just text", "- a\n- b\n", "\x00"])
def test_damaged_config_of_an_earlier_run_is_refused(text: str, call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "outputs/digits/sharpzo/Mini/1shots/seed1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(text)
    call(*FEW).assert_refused(str(folder / "config.yaml"), "--overwrite")
    assert (folder / "config.yaml").read_text() == text


@pytest.mark.parametrize("blocked", ["outputs", "outputs/digits", "outputs/digits/sharpzo/Mini/1shots/seed1"])
def test_file_in_the_way_of_the_run_folder_is_refused_and_kept(blocked: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / blocked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / blocked).write_text("in the way")
    call(*FEW).assert_refused(str(tmp_path / "outputs"))
    assert (tmp_path / blocked).read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir(mode=0o500)
    call(*FEW).assert_refused(str(tmp_path / "outputs"))


def test_run_folder_that_is_a_link_is_refused_with_a_reason(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "outputs/digits/sharpzo/Mini/1shots/seed1"
    folder.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    run = call(*FEW, folder="digits/sharpzo/Mini/1shots/seed1")
    if run.status:
        run.assert_refused(str(folder))
        assert "None" not in run.err
    else:
        assert run.result["shots"] == 1


def test_run_name_adds_a_level(call: Call) -> None:
    run = call(*FEW, "--run_name", "wide", folder="digits/sharpzo/Mini/wide/1shots/seed1")
    assert (run.status, run.result["shots"]) == (0, 1)


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


def test_zero_shot_asks_no_queries_and_draws_no_images(call: Call) -> None:
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
    # the references without prompts ask nothing; 2d, 2d + 1, 2 · 20 pairs, 4 + 3 ln d, then what each paper's step takes
    queries |= {"adam-cge": 2 * 8, "lbfgs": 2 * 9, "openai-es": 2 * 40, "plain-cma": 2 * 8, "fzoo": 2 * 9, "r-adazo": 2 * 11}
    queries |= {"conmezo": 2 * 2, "curvzo": 2 * 2, "zoar": 2 * 10, "guided-es": 2 * 16, "zosa": 2 * 18, "zest": 2 * 16}
    queries |= {"loren": 2 * 6, "bszo": 2 * 3}
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
    # a projection this small leaves every prompt as it is, so that validation accuracy stays where it was
    flags = [*FLAGS, "--shots", "1", "--change_point", "auto", "--total_steps", "12", "--std", "1e-9"]
    run = call(*flags, folder="digits/sharpzo/Mini/1shots/seed1")
    assert (run.status, run.config["change_point"]) == (0, "auto")
    assert [entry["stage"] for entry in run.metrics[1:]] == [1] * 10 + [2] * 2


def test_eurosat_runs_from_coops_layout_with_its_own_config(eurosat: Path, call: Call) -> None:
    run = call(*eurosat_flags(eurosat), folder="eurosat/sharpzo/Mini/1shots/seed1")
    assert run.status == 0
    assert (run.result["dataset"], run.config["std"], run.config["template"]) == (
        "eurosat",
        1.0,
        "a centered satellite photo of {}.",
    )
    assert run.log[-3] == "* total: 3"
    for part in ("train", "val"):
        assert [(label, name) for _, label, name in run.split[part]] == list(enumerate(EUROSAT_CLASSES))


def test_zero_shot_needs_no_training_images(eurosat: Path, call: Call) -> None:
    flags = eurosat_flags(eurosat, "--prompt_trainer", "zero-shot")
    folder = "eurosat/zero-shot/Mini/1shots/seed1"
    before = call(*flags, folder=folder).result
    for path in drawn_images(eurosat, "train"):
        path.unlink()
    after = call(*flags, "--overwrite", folder=folder)
    assert after.status == 0
    assert {key: value for key, value in after.result.items() if "seconds" not in key} == {
        key: value for key, value in before.items() if "seconds" not in key
    }


def test_missing_root_path_is_refused_and_leaves_no_run_folder(call: Call, tmp_path: Path) -> None:
    flags = ["--config", "configs/eurosat.yaml", "--backbone", "Mini", *FEW]
    call(*flags).assert_refused("--root_path", "eurosat")
    call(*flags, "--root_path", str(tmp_path / "nowhere")).assert_refused("--root_path", str(tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"no image")], ids=["missing", "damaged"])
def test_image_that_cannot_be_read_is_refused_and_leaves_no_run_folder(
    part: str, damage: Callable[[Path], Any], eurosat: Path, call: Call, tmp_path: Path
) -> None:
    for path in drawn_images(eurosat, part):
        damage(path)
    call(*eurosat_flags(eurosat)).assert_refused(str(eurosat / "eurosat" / "2750"), ".jpg")
    assert not (tmp_path / "outputs").exists()


def test_too_few_images_for_the_shots_are_refused_and_leave_no_run_folder(eurosat: Path, call: Call, tmp_path: Path) -> None:
    call(*eurosat_flags(eurosat, "--shots", "3")).assert_refused("eurosat: train: class 'AnnualCrop' has 2 images")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("trainer", ["sharpzo", "zero-shot"])
def test_split_without_test_images_is_refused(trainer: str, eurosat: Path, call: Call, tmp_path: Path) -> None:
    path = eurosat / "eurosat" / "split_zhou_EuroSAT.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test": []}))
    call(*eurosat_flags(eurosat, "--prompt_trainer", trainer)).assert_refused()
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--device", "toaster"), "--device"),
        (("--device", "cuda:99"), "--device"),
        (("--backbone", "Mimi"), "--backbone: unknown model 'Mimi'"),
        (("--checkpoint", "no/such/file.pt"), "no/such/file.pt"),
        (("--ctx_init", "word " * 60), "--ctx_init"),
    ],
)
def test_setting_that_only_the_model_can_refuse_leaves_no_run_folder(
    flags: tuple[str, ...], named: str, call: Call, tmp_path: Path
) -> None:
    call(*FEW, *flags).assert_refused(named)
    assert not (tmp_path / "outputs").exists()


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


def test_folder_that_a_killed_run_left_without_its_config_starts_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "digits/zero-shot/Mini/16shots/seed1"
    folder.mkdir(parents=True)
    (folder / "config.yaml.tmp").write_text("dataset: di")
    assert main_sharpzo.main(["--prompt_trainer", "zero-shot", "--output_dir", str(tmp_path)]) == 0
    assert "starting over" in capsys.readouterr().out
