"""A dataset in CoOp's layout, and data that a run refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.outcomes import EUROSAT_CLASSES, FEW, Call, drawn_images, eurosat_flags


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
