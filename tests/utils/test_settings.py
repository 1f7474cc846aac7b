"""Where settings come from: defaults, trainers, YAML, sections and flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from datasets import DATASETS
from tests.helpers.settings import COMMON, LAPTOP, SHIFTS, TABLE_8, resolve
from trainers import TRAINERS, TrainerInfo
from utils.config import FIELDS, REPOSITORY, default_text, load_config
from utils.setting_kinds import PATHS
from utils.settings import Config


def test_every_dataset_and_nothing_else_has_a_config() -> None:
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
def test_trainers_have_their_published_settings_except_in_their_own_section(dataset: str, shots: int) -> None:
    path = REPOSITORY / "configs" / f"{dataset}.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, info in TRAINERS.items():
        # the references without a prompt stop after their candidates
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


def test_a_change_point_at_the_last_step_or_of_a_one_stage_trainer_is_accepted() -> None:
    assert resolve("--change_point", "30", "--total_steps", "30").change_point == 30
    assert resolve("--total_steps", "3", "--prompt_trainer", "fo").total_steps == 3


def test_config_is_frozen_and_its_dict_holds_every_setting() -> None:
    config = resolve()
    assert set(config.as_dict()) == {field.name for field in dataclasses.fields(Config)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 2  # type: ignore[misc]


def test_help_gives_the_embedded_default_next_to_the_papers(capsys: pytest.CaptureFixture) -> None:
    assert default_text("total_steps") == "20000; digits.yaml has 4000"
    # the same in both, and a setting that the YAML does not mention
    assert default_text("sigma") == "0.4"
    assert default_text("popsize") == "40"
    with pytest.raises(SystemExit):
        load_config(["--help"], TRAINERS, DATASETS)
    assert "(default: 20000; digits.yaml has 4000)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("key", ["root_path", "output_dir", "cache_dir", "checkpoint", "split_file", "load_prompt"])
def test_tilde_in_any_path_flag_or_key_is_the_home_folder(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert getattr(load_config([f"--{key}=~/x"], TRAINERS, DATASETS), key) == str(tmp_path / "x")
    trainer = "saved" if key == "load_prompt" else "sharpzo"
    (tmp_path / "mine.yaml").write_text(f"dataset: digits\nprompt_trainer: {trainer}\n{key}: ~/x\n")
    assert getattr(load_config(["--config=~/mine.yaml"], TRAINERS, DATASETS), key) == str(tmp_path / "x")


def test_every_path_setting_is_in_the_test_of_the_tilde() -> None:
    paths = {name for name in FIELDS if name.endswith(("_path", "_dir", "_file")) or name in PATHS}
    assert paths == {"root_path", "output_dir", "cache_dir", "checkpoint", "split_file", "load_prompt"}
