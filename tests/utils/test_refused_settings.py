"""Settings that are refused, in one line that names flag or file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.settings import refusal, resolve
from utils.errors import UserError
from utils.setting_kinds import DEPARTURES, RELEASED, departures


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("--prune_ratio", "1.5"), "--prune_ratio: 1.5"),
        (("--prune_ratio", "1"), "--prune_ratio: 1.0"),
        (("--prune_ratio", "-0.1"), "--prune_ratio: -0.1"),
        (("--change_point", "31", "--total_steps", "30"), "--change_point: change point 31 lies past"),
        (("--total_steps", "20"), "change point 30 lies past"),
        (("--change_point", "soon"), "--change_point: 'soon' is not a whole number or 'auto'"),
        (("--change_point", "-1"), "--change_point: -1"),
        (("--shots", "0"), "--shots: 0"),
        (("--shots", "2.5"), "--shots: '2.5' is not a whole number"),
        (("--popsize", "1"), "--popsize: 1"),
        (("--intrinsic_dim", "0"), "--intrinsic_dim: 0"),
        (("--sigma", "0"), "--sigma: 0.0"),
        (("--sigma", "nan"), "--sigma: 'nan' is not a number"),
        (("--zo_lr", "inf"), "--zo_lr: 'inf' is not a number"),
        (("--bound=-inf",), "--bound: '-inf' is not a number"),
        (("--rho", "1e999"), "--rho: '1e999' is not a number"),
        (("--seed", "nan"), "--seed: 'nan' is not a whole number"),
        (("--seed", "-1"), "--seed: -1"),
        (("--precision", "float8"), "--precision: 'float8' is not one of"),
        (("--prompt_trainer", "sharpzoo"), "--prompt_trainer: unknown trainer 'sharpzoo' (did you mean 'sharpzo'?)"),
        (("--dataset", "eurosta"), "--dataset: unknown dataset 'eurosta' (did you mean 'eurosat'?)"),
        (("--prompt_trainer", "zo", "--pruning", "zscore"), "--pruning: trainer zo is dense"),
        (("--prompt_trainer", "zo", "--pruning", "magnitude"), "--pruning: trainer zo is dense"),
        (("--run_name", "a/b"), "--run_name: 'a/b'"),
        (("--run_name", "a/"), "--run_name: 'a/'"),
        (("--run_name", "/abs"), "--run_name: '/abs'"),
        (("--run_name", ".."), "--run_name: '..'"),
        (("--run_name", "."), "--run_name: '.'"),
        (("--template", "a photo"), "--template: 'a photo' must contain {} exactly once"),
        (("--template", "{} or {}"), "--template: '{} or {}' must contain {} exactly once"),
        (("--short_classes", "repeat"), "--short_classes: 'repeat' is not one of error, take-all"),
        (("--subsample_classes", "old"), "--subsample_classes: 'old' is not one of all, base, new"),
        (("--augment_views", "-1"), "--augment_views: -1"),
        (("--ctx_init", " "), "--ctx_init: "),
        (
            ("--prompt_trainer", "bpt-vlm", "--deep", "--class_token_position", "front"),
            "--class_token_position: deep prompts (--deep) precede the class name",
        ),
        (("--config", "no/such.yaml"), "--config: no/such.yaml: no such file"),
        (("--config", "configs"), "--config: configs: no such file"),
        (("--simga", "0.1"), "unrecognized arguments: --simga 0.1 (did you mean '--sigma'?)"),
        (("--intrinsic", "4"), "unrecognized arguments: --intrinsic"),
        (("stray",), "unrecognized arguments: stray"),
        (("--sigma",), "--sigma: expected one argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_flag_is_refused_in_one_line_that_names_it(argv: tuple[str, ...], named: str) -> None:
    assert named in refusal(*argv)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("shots: true", "True is not a whole number"),
        ("shots: [1, 2]", "expected one value, not a list or mapping"),
        ("shots: 1.5", "1.5 is not a whole number"),
        ("shots: .inf", "inf is not a whole number"),
        ("shots: .nan", "nan is not a whole number"),
        ("shots: 0", "0 is out of range: it must be at least 1"),
        ("seed:", "None is not a whole number"),
        ("prune_ratio: 1.5", "1.5 is out of range: it must be less than 1"),
        ("sigma: large", "'large' is not a number"),
        ("sigma: false", "False is not a number"),
        ("sigma: .nan", "nan is not a number"),
        ("sigma: .inf", "inf is not a number"),
        ("sigma: 2024-01-01", "is not text, a number or true/false"),
        ("ctx_init: 5", "5 is not text"),
        ("ctx_init: yes", "True is not text"),
        ('overwrite: "true"', "'true' is not true or false"),
        ("overwrite: 1", "1 is not true or false"),
        ("simga: 0.1", "unknown key (did you mean 'sigma'?)"),
        ("zo: 5", "zo is a trainer; its settings belong in a mapping below it"),
        ("sharpz: {sigma: 0.1}", "a section must be named after a trainer (did you mean 'sharpzo'?)"),
        ("optimizer: {sigma: 0.1}", "a section must be named after a trainer"),
        ("zo: {sigma: {2: 0.1}}", "by shots: give a value from 1 shot on"),
        ("zo: {sigma: {}}", "by shots: give a value from 1 shot on"),
        ("zo: {sigma: {1: large}}", "by shots: 'large' is not a number"),
        ("zo: {sigma: {1: {1: 0.1}}}", "expected one value, not a list or mapping"),
        ("zo: {shots: {1: 2}}", "is not a whole number"),
        ("sigma: {1: 0.1}", "a section must be named after a trainer"),
        ("prompt_trainer: mezzo", "unknown trainer 'mezzo' (did you mean 'mezo'?)"),
        ("prompt_trainer: {}", "a section must be named after a trainer"),
        ("change_point: 30000", "change point 30000 lies past the last step"),
        ("run_name: a/b", "'a/b' must be a plain folder name"),
        ('run_name: "a\\0b"', "is not text"),
        ("zo: {simga: 0.1}", "unknown key (did you mean 'sigma'?)"),
        ("zo: {prompt_trainer: zo}", "a trainer's section cannot choose the trainer"),
        ("zo: {sigma: {a: 1}}", "by shots: 'a' is not a whole number"),
        ("zo: {sigma: 1, sigma: 2}", "the key is given twice"),
        ("zo: {sigma: -1}", "-1.0 is out of range"),
        ("{a: 1}: 2", "a key must be a plain word"),
    ],
)
def test_bad_line_of_a_config_is_refused_with_file_and_line(line: str, reason: str, from_yaml: Callable[[str], str]) -> None:
    path = from_yaml(f"# what is wrong stands in line 3\ndataset: digits\n{line}\n")
    message = refusal("--config", path)
    assert message.startswith(f"{path}:3: ")
    assert reason in message


def test_a_bad_section_is_refused_even_when_another_trainer_runs(from_yaml: Callable[[str], str]) -> None:
    path = from_yaml("dataset: digits\nzo:\n  shots: none\n")
    assert refusal("--config", path, "--prompt_trainer", "fo").startswith(f"{path}:3: shots: 'none' is not a whole number")


def test_duplicate_key_is_refused_at_its_second_line(from_yaml: Callable[[str], str]) -> None:
    path = from_yaml("dataset: digits\nsigma: 0.1\nshots: 4\nsigma: 0.2\n")
    assert refusal("--config", path) == f"{path}:4: sigma: the key is given twice"


def test_unknown_dataset_in_a_config_is_refused_with_its_line(from_yaml: Callable[[str], str]) -> None:
    path = from_yaml("\ndataset: eurosats\n")
    assert refusal("--config", path).startswith(f"{path}:2: dataset: unknown dataset 'eurosats' (did you mean 'eurosat'?)")


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "shots: 4\n"])
def test_config_that_names_no_dataset_is_refused(text: str, from_yaml: Callable[[str], str]) -> None:
    assert "does not name a dataset" in refusal("--config", from_yaml(text))
    assert resolve("--config", from_yaml(text), "--dataset", "digits").dataset == "digits"


@pytest.mark.parametrize(
    "text", ["- shots\n", "shots\n", "dataset: [digits\n", "dataset: 'digits\n", "a: b: c\n", "\tshots: 4\n"]
)
def test_config_that_is_not_a_mapping_is_refused(text: str, from_yaml: Callable[[str], str]) -> None:
    path = from_yaml(text)
    assert refusal("--config", path).startswith(path)


@pytest.mark.parametrize("content", [b"\x80\x02\xffbinary\x00", b"shots: \x00\x01\x02", bytes(range(256))])
def test_binary_file_is_refused_as_a_config(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(content)
    assert refusal("--config", str(path)).startswith(str(path))


@pytest.mark.parametrize(
    "value",
    [
        '!!python/object/apply:os.system ["touch {}"]',
        '!!python/object/apply:os.system {{args: ["touch {}"]}}',
        '!!python/object/new:subprocess.getoutput ["touch {}"]',
        "!!python/name:os.system {}",
        "!!python/module:os {}",
    ],
)
@pytest.mark.parametrize("place", ["sigma: {}", "{}", "zo: {{sigma: {}}}", "zo: {}"])
def test_python_tag_in_a_config_is_refused_and_not_run(
    value: str, place: str, tmp_path: Path, from_yaml: Callable[[str], str]
) -> None:
    trap = tmp_path / "ran"
    filled = place.format(value.format(trap))
    path = from_yaml(f"dataset: digits\n{filled}\n" if place != "{}" else filled)
    refusal("--config", path, "--dataset", "digits")
    assert not trap.exists()


@pytest.mark.parametrize(
    "value", ["!!bool maybe", "!!timestamp noon", '!!int ""', "!!float x", "!!binary é", "2020-13-45", "!mine 3"]
)
def test_value_that_does_not_fit_its_yaml_tag_is_refused_with_file_and_line(value: str, from_yaml: Callable[[str], str]) -> None:
    path = from_yaml(f"dataset: digits\nsigma: {value}\n")
    assert refusal("--config", path).startswith(f"{path}:2: sigma: ")


@pytest.mark.parametrize(
    ("argv", "chosen"),
    [
        (("--fidelity", "paper"), ()),
        (("--fidelity", "released", "--prompt_trainer", "zo"), RELEASED),
        (("--fidelity", "released", "--prompt_trainer", "cma-es"), RELEASED),
        (("--fidelity", "released", "--pruning", "none"), RELEASED),
        (("--fidelity", "gradient-buffer, zero-start"), ("gradient-buffer", "zero-start")),
        (("--fidelity", "abs-score,keep-lowest"), ("abs-score", "keep-lowest")),
        (("--fidelity", "matrix-w,gradient-buffer", "--prompt_trainer", "zo"), ("matrix-w", "gradient-buffer")),
    ],
)
def test_fidelity_selects_departures(argv: tuple[str, ...], chosen: tuple[str, ...]) -> None:
    assert departures(resolve(*argv)) == set(chosen)


def test_released_means_the_departures_of_a_run_that_released_code_can_make() -> None:
    assert set(DEPARTURES) - set(RELEASED) == {"abs-score", "keep-lowest"}


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (("released",), "sparse stage 2 never ran"),
        (("released", "--pruning", "magnitude"), "sparse stage 2 never ran"),
        (("released", "--prompt_trainer", "fo"), "not to fo"),
        (("released", "--prompt_trainer", "zero-shot"), "not to zero-shot"),
        (("zero-start", "--prompt_trainer", "fo"), "not to fo"),
        (("matrix-w", "--prompt_trainer", "zo"), "it requires gradient-buffer"),
        (("matrix-w,gradient-buffer",), "the dense stage 2"),
        (("abs-score", "--prompt_trainer", "zo"), "they require sharpzo with --pruning zscore"),
        (("abs-score", "--prompt_trainer", "cma-es"), "they require sharpzo with --pruning zscore"),
        (("keep-lowest", "--pruning", "magnitude"), "they require sharpzo with --pruning zscore"),
        (("keep-lowest", "--pruning", "none"), "they require sharpzo with --pruning zscore"),
        (("gradient-bufer",), "unknown departure 'gradient-bufer' (did you mean 'gradient-buffer'?)"),
        (("paper,zero-start",), "unknown departure 'paper'"),
        (("zero-start,",), "unknown departure ''"),
        (("",), "unknown departure ''"),
    ],
)
def test_fidelity_that_cannot_be_is_refused(argv: tuple[str, ...], reason: str) -> None:
    message = refusal("--fidelity", *argv)
    assert message.startswith("--fidelity: ")
    assert reason in message


@pytest.mark.parametrize("name", ["potato", "mps", "", "cuda:x"])
def test_name_that_is_not_a_device_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="--device"):
        resolve("--device", name)
