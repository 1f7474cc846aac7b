"""The settings that concern data: settings of the shifts and of folders of images, other names, and impossible paths."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from datasets import DATASETS
from tests.helpers.settings import COMMON, SHIFTS, resolve
from utils.checks import check_paths
from utils.errors import UserError


@pytest.mark.parametrize("dataset", SHIFTS)
def test_config_of_a_shift_is_an_evaluation(dataset: str) -> None:
    config = resolve("--config", f"configs/{dataset}.yaml")
    assert {key: getattr(config, key) for key in COMMON} == COMMON | {"prompt_trainer": "zero-shot"}
    assert (config.dataset, config.template, DATASETS[dataset].template) == (dataset, None, "a photo of a {}.")


def test_config_for_a_folder_of_images_is_the_example() -> None:
    config = resolve("--config", "configs/folder.yaml")
    laptop = {"short_classes": "take-all", "intrinsic_dim": 128, "total_steps": 2000}
    assert {key: getattr(config, key) for key in COMMON | laptop} == COMMON | laptop
    keys = ("dataset", "template", "sigma", "zo_eps_cge", "change_point", "zo_lr", "std", "bound")
    assert tuple(getattr(config, key) for key in keys) == ("folder", "a photo of a {}.", 0.4, 1e-3, 20, 1e-2, 0.2, 5.0)


def test_datasets_other_name_means_the_same(tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text("dataset: fgvc\n")
    assert resolve("--dataset", "fgvc").dataset == "fgvc_aircraft"
    assert resolve("--config", str(tmp_path / "given.yaml")).dataset == "fgvc_aircraft"
    named = resolve("--config", "configs/fgvc.yaml")
    assert dataclasses.replace(named, config="") == dataclasses.replace(
        resolve("--config", "configs/fgvc_aircraft.yaml"), config=""
    )


def test_data_are_read_as_the_papers_did_by_default() -> None:
    config = resolve("--config", "configs/eurosat.yaml")
    keys = ("short_classes", "split_file", "subsample_classes", "augment_views", "cache", "cache_dir")
    assert tuple(getattr(config, key) for key in keys) == ("error", None, "all", 0, True, None)


@pytest.mark.parametrize(
    ("flag", "value"), [("split_file", "no/such.json"), ("checkpoint", "no/such.pt"), ("split_file", "configs")]
)
def test_missing_file_is_refused_by_its_flag(flag: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"--{flag}: {value}: no such file"):
        check_paths(resolve(f"--{flag}", value))


def test_file_in_place_of_the_cache_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match=r"--cache_dir: .*cache: exists and is not a folder"):
        check_paths(resolve("--cache_dir", str(tmp_path / "cache")))
