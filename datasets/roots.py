"""Where a dataset is below --root_path: in CoOp's layout, or one level deeper as in the released code."""

from __future__ import annotations

from pathlib import Path

from datasets import DATASETS
from utils.errors import UserError


def dataset_folder(name: str, root: str | None) -> Path:
    """ROOT/FOLDER, or ROOT/datasets/FOLDER. Raises UserError if neither exists."""
    info = DATASETS[name]
    if root is None:
        what = "the image folder" if name == "folder" else f"the folder that holds {info.folder}/"
        raise UserError(f"--root_path: dataset {name} requires {what}")
    if not Path(root).is_dir():
        advice = "" if name == "folder" else "; name the folder that holds your datasets (DATASET.md has their sources)"
        raise UserError(f"--root_path: {root}: no such folder{advice}")
    coop, released = Path(root) / info.folder, Path(root) / "datasets" / info.folder
    for place in (coop, released):
        if place.is_dir():
            return place
    if coop.exists():
        raise UserError(f"--root_path: {coop}: a file where the folder of {name} is expected")
    raise UserError(
        f"--root_path: {coop}: no such folder, nor is it in {Path(root) / 'datasets'}; "
        f"`python -m tools.data check {name} --root_path {root}` shows where to get it"
    )


def check_dataset(name: str, root: str | None, trains: bool) -> None:
    """Checks a dataset before it is read. Raises UserError."""
    info = DATASETS[name]
    if info.evaluation_only and trains:
        raise UserError(f"--dataset: {name} is for evaluation only: it has no training images; use --prompt_trainer zero-shot")
    if info.folder:
        dataset_folder(name, root)
