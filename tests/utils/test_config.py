"""From flags and YAML to settings: the pinned configurations, precedence, and one line for whatever cannot be right."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from datasets import DATASETS
from tools.maintain.flag_table import page
from tools.reproduce.suites import MINI
from trainers import TRAINERS, TrainerInfo
from utils.config import REPOSITORY, load_config
from utils.errors import UserError
from utils.settings import DEPARTURES, RELEASED, Config, departures

# dataset: sigma, zo_eps_cge, change_point, zo_lr, std, bound
TABLE_8 = {
    "oxford_pets": (0.1, 1e-3, 100, 1e-3, 0.2, 5.0),
    "oxford_flowers": (0.4, 1e-3, 500, 1e-3, 0.2, 5.0),
    "fgvc_aircraft": (0.2, 1e-3, 400, 1e-3, 0.2, 0.0),
    "dtd": (0.4, 1e-5, 300, 1e-3, 1.0, 5.0),
    "eurosat": (0.4, 1e-3, 500, 1e-3, 1.0, 5.0),
    "stanford_cars": (1.0, 1e-3, 100, 1e-3, 0.2, 5.0),
    "food101": (0.1, 1e-3, 100, 1e-3, 0.2, 0.0),
    "sun397": (0.4, 1e-3, 400, 1e-1, 0.2, 5.0),
    "caltech101": (0.4, 1e-3, 200, 1e-3, 0.2, 5.0),
    "ucf101": (0.1, 1e-3, 200, 1e-3, 0.2, 5.0),
    "imagenet": (1.0, 1e-5, 200, 1e-1, 1.0, 0.0),
}
SHIFTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
LAPTOP = {"digits", *MINI.shifts, *MINI.datasets}
COMMON = {
    "popsize": 40,
    "intrinsic_dim": 512,
    "ctx_init": "a photo of a",
    "rho": 0.1,
    "smoothness_estimator": "zo",
    "zo_eps_mask": 1e-5,
    "zo_eps_rge": 1e-3,
    "prune_interval": 200,
    "num_pertub": 1,
    "prune_ratio": 0.5,
    "total_steps": 20_000,
    "pruning": "zscore",
    "prompt_trainer": "sharpzo",
    "fidelity": "paper",
    "backbone": "ViT-B/16",
    "shots": 16,
    "seed": 1,
}


def resolve(*argv: str) -> Config:
    return load_config(list(argv), TRAINERS, DATASETS)


def refusal(*argv: str) -> str:
    """The one line that `argv` is refused with."""
    with pytest.raises(UserError) as caught:
        resolve(*argv)
    message = str(caught.value)
    assert message.strip()
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture
def from_yaml(tmp_path: Path) -> Callable[[str], str]:
    """Writes a config file and gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "given.yaml"
        path.write_text(text)
        return str(path)

    return write


def command(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(REPOSITORY / "main_sharpzo.py")]
    return subprocess.run([*program, *argv], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_there_is_a_config_for_every_dataset_and_for_nothing_else() -> None:
    assert {path.stem for path in (REPOSITORY / "configs").glob("*.yaml")} == set(DATASETS)
    assert set(TABLE_8) == set(DATASETS) - {*LAPTOP, "folder", *SHIFTS}


@pytest.mark.parametrize("dataset", TABLE_8)
def test_config_of_a_dataset_is_the_papers_table_8(dataset: str) -> None:
    config = resolve("--config", f"configs/{dataset}.yaml")
    keys = ("sigma", "zo_eps_cge", "change_point", "zo_lr", "std", "bound")
    assert tuple(getattr(config, key) for key in keys) == TABLE_8[dataset]
    assert {key: getattr(config, key) for key in COMMON} == COMMON
    assert config.dataset == dataset


# flat keys of digits.yaml, chosen for the digits, which its other trainers go by as well
OF_ALL_DIGITS = {("bbt", "sigma"), ("craft", "sigma"), ("coop", "total_steps"), ("blackvip", "total_steps")}


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("dataset", DATASETS)
def test_trainers_keep_their_published_settings_but_for_what_their_own_section_changes(dataset: str, shots: int) -> None:
    path = REPOSITORY / "configs" / f"{dataset}.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, info in TRAINERS.items():
        # those without a prompt stop at their own number of candidates
        if not info.trains or not info.prompt:
            continue
        config = resolve("--config", str(path), "--prompt_trainer", name, "--shots", str(shots))
        by_shots = {key: values[max(least for least in values if least <= shots)] for key, values in info.by_shots.items()}
        for key, published in {**info.defaults, **by_shots}.items():
            if key not in document.get(name, {}) and (dataset != "digits" or (name, key) not in OF_ALL_DIGITS):
                assert getattr(config, key) == published, f"{name}: {key}"


@pytest.mark.parametrize(("shots", "queries", "generations"), [(1, 2000, 50), (2, 4000, 100), (4, 4000, 100), (16, 4000, 100)])
def test_imagenets_budgets_of_bbt_and_craft_follow_the_shots(shots: int, queries: int, generations: int) -> None:
    flags = ("--config", "configs/imagenet.yaml", "--shots", str(shots), "--prompt_trainer")
    assert resolve(*flags, "bbt").max_queries == queries
    assert resolve(*flags, "craft").total_steps == generations


def test_section_may_give_a_setting_by_shots(from_yaml: Callable[[str], str]) -> None:
    path = from_yaml("dataset: digits\nsigma: 0.5\ncma-es: {sigma: {1: 0.1, 4: 0.2}, shots: 4}\n")
    argv = ("--config", path, "--prompt_trainer", "cma-es")
    assert [resolve(*argv, "--shots", shots).sigma for shots in ("1", "3", "4", "16")] == [0.1, 0.1, 0.2, 0.2]
    assert (resolve(*argv).sigma, resolve(*argv, "--sigma", "0.7").sigma, resolve("--config", path).sigma) == (0.2, 0.7, 0.5)


def test_no_arguments_mean_digits_on_mini() -> None:
    config = resolve()
    own = {"backbone": "Mini", "intrinsic_dim": 256, "total_steps": 4000}
    assert {key: getattr(config, key) for key in COMMON} == COMMON | own
    assert (config.dataset, config.std, config.sigma, config.change_point, config.zo_lr) == ("digits", 0.1, 0.4, 30, 0.1)


@pytest.mark.parametrize("trainer", [name for name in TRAINERS if name != "saved"])
def test_every_trainer_resolves_with_the_default_config(trainer: str) -> None:
    config = resolve("--prompt_trainer", trainer)
    assert config.prompt_trainer == trainer
    assert config.pruning == ("none" if trainer == "zo" else "zscore")


def test_shipped_config_is_found_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("--config", "configs/eurosat.yaml").dataset == "eurosat"


def test_a_config_in_the_working_directory_wins_over_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "eurosat.yaml").write_text("dataset: eurosat\nsigma: 0.7\n")
    monkeypatch.chdir(tmp_path)
    assert resolve("--config", "configs/eurosat.yaml").sigma == 0.7


def test_each_source_of_a_setting_beats_the_one_before(from_yaml: Callable[[str], str]) -> None:
    registry = {
        "plain": TrainerInfo("no defaults of its own", ""),
        "own": TrainerInfo("with defaults of its own", "", defaults={"sigma": 0.2}),
    }

    def sigma(text: str, *argv: str) -> float:
        return load_config(["--config", from_yaml("dataset: digits\n" + text), *argv], registry, DATASETS).sigma

    of_own = ("--prompt_trainer", "own")
    section = "own: {sigma: 0.6}\n"
    assert sigma("", "--prompt_trainer", "plain") == 0.4
    assert sigma("", *of_own) == 0.2
    assert sigma("sigma: 0.5\n", *of_own) == 0.5
    assert sigma("sigma: 0.5\n" + section, *of_own) == 0.6
    assert sigma(section + "sigma: 0.5\n", *of_own) == 0.6
    assert sigma("sigma: 0.5\n" + section, *of_own, "--sigma", "0.7") == 0.7


def test_section_of_another_trainer_changes_nothing(from_yaml: Callable[[str], str]) -> None:
    path = from_yaml("dataset: digits\nsigma: 0.5\ncma-es: {sigma: 0.6}\n")
    assert resolve("--config", path).sigma == 0.5
    assert resolve("--config", path, "--prompt_trainer", "cma-es").sigma == 0.6


def test_yaml_may_choose_the_trainer_and_a_flag_may_choose_another(from_yaml: Callable[[str], str]) -> None:
    path = from_yaml("dataset: digits\nprompt_trainer: zo\nfo: {zo_lr: 0.5}\n")
    assert (resolve("--config", path).prompt_trainer, resolve("--config", path).pruning) == ("zo", "none")
    other = resolve("--config", path, "--prompt_trainer", "fo")
    assert (other.prompt_trainer, other.pruning, other.zo_lr) == ("fo", "zscore", 0.5)


def test_exponent_without_a_point_is_a_number(from_yaml: Callable[[str], str]) -> None:
    assert yaml.safe_load("1e-3") == "1e-3"
    config = resolve("--config", from_yaml("dataset: digits\nzo_lr: 1e-3\nzo_eps_cge: 1e-5\nbound: 5\n"))
    assert (config.zo_lr, config.zo_eps_cge, config.bound) == (0.001, 0.00001, 5.0)
    assert all(type(value) is float for value in (config.zo_lr, config.zo_eps_cge, config.bound))


def test_flags_take_every_kind_of_value() -> None:
    config = resolve("--shots", "4", "--zo_lr", "1e-2", "--no-save_model", "--overwrite", "--ctx_init", "an image")
    assert (config.shots, config.zo_lr, config.save_model, config.overwrite, config.ctx_init) == (
        4,
        0.01,
        False,
        True,
        "an image",
    )
    assert resolve("--change_point", "auto").change_point == "auto"
    assert resolve("--change_point", "7").change_point == 7


def test_a_change_point_at_the_last_step_or_of_a_one_stage_trainer_is_good() -> None:
    assert resolve("--change_point", "30", "--total_steps", "30").change_point == 30
    assert resolve("--total_steps", "3", "--prompt_trainer", "fo").total_steps == 3


def test_config_is_frozen_and_its_dict_holds_every_setting() -> None:
    config = resolve()
    assert set(config.as_dict()) == {field.name for field in dataclasses.fields(Config)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 2  # type: ignore[misc]


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
        (("--template", "a photo"), "--template: 'a photo' must hold {} once"),
        (("--template", "{} or {}"), "--template: '{} or {}' must hold {} once"),
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
        ("sigma: 2024-01-01", "is no text, number or true/false"),
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
        ("zo: {sigma: 1, sigma: 2}", "the key stands twice"),
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


def test_key_that_stands_twice_is_refused_at_its_second_line(from_yaml: Callable[[str], str]) -> None:
    path = from_yaml("dataset: digits\nsigma: 0.1\nshots: 4\nsigma: 0.2\n")
    assert refusal("--config", path) == f"{path}:4: sigma: the key stands twice"


def test_unknown_dataset_in_a_config_is_refused_with_its_line(from_yaml: Callable[[str], str]) -> None:
    path = from_yaml("\ndataset: eurosats\n")
    assert refusal("--config", path).startswith(f"{path}:2: dataset: unknown dataset 'eurosats' (did you mean 'eurosat'?)")


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "shots: 4\n"])
def test_config_that_names_no_dataset_is_refused(text: str, from_yaml: Callable[[str], str]) -> None:
    assert "names no dataset" in refusal("--config", from_yaml(text))
    assert resolve("--config", from_yaml(text), "--dataset", "digits").dataset == "digits"


@pytest.mark.parametrize(
    "text", ["- shots\n", "shots\n", "dataset: [digits\n", "dataset: 'digits\n", "a: b: c\n", "\tshots: 4\n"]
)
def test_config_that_is_no_mapping_is_refused(text: str, from_yaml: Callable[[str], str]) -> None:
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
def test_value_that_its_yaml_tag_cannot_take_is_refused_with_file_and_line(value: str, from_yaml: Callable[[str], str]) -> None:
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
        (("released", "--prompt_trainer", "fo"), "not fo"),
        (("released", "--prompt_trainer", "zero-shot"), "not zero-shot"),
        (("zero-start", "--prompt_trainer", "fo"), "not fo"),
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


@pytest.mark.parametrize("argv", [("--prune_ratio", "1.5"), ("--config", "given.yaml")])
def test_bad_setting_ends_the_program_with_status_2_and_one_line_and_no_folder(argv: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text("dataset: digits\nsimga: 0.1\n")
    done = command(*argv, "--output_dir", str(tmp_path / "outputs"), cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*(--prune_ratio: 1\.5|given\.yaml:2: simga).*\n", done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.yaml"]


@pytest.mark.parametrize(("flag", "status"), [("--help", 0), ("--simga=1", 2), ("--shots=0", 2)])
def test_help_and_a_bad_flag_answer_at_once_without_torch(flag: str, status: int, tmp_path: Path) -> None:
    code = (
        "import sys, main_sharpzo\n"
        "try: status = main_sharpzo.main(sys.argv[1:])\n"
        "except SystemExit as end: status = end.code or 0\n"
        "print('HEAVY', {'torch', 'open_clip', 'numpy', 'cma'} & set(sys.modules), file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, flag], cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    assert done.returncode == status
    assert "HEAVY set()" in done.stderr
    assert seconds < 3


def test_help_names_every_flag_trainer_and_dataset(tmp_path: Path) -> None:
    done = command("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    flags = {f"--{field.name}" for field in dataclasses.fields(Config)}
    assert flags <= set(re.findall(r"--\w+", done.stdout))
    # argparse breaks lines at hyphens too
    text = "".join(done.stdout.split())
    assert all(f"{name}: {trainer.help}".replace(" ", "") in text for name, trainer in TRAINERS.items())
    assert all(name in text for name in DATASETS)


def test_the_page_of_flags_is_that_of_the_settings() -> None:
    written = (REPOSITORY / "docs" / "flags.md").read_text(encoding="utf-8")
    assert written == page(), "run python -m tools.maintain.flag_table > docs/flags.md"


@pytest.mark.parametrize("name", ["potato", "mps", "", "cuda:x"])
def test_a_device_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="--device"):
        resolve("--device", name)
