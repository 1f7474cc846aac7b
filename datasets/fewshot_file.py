"""A few-shot list given by the user, in CoOp's split form: {"train": [[path, label, name], …], "val": […]}, as runs write it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import PARTS
from datasets.classes import VAL_SHOTS, count, per_class, refuse_absent_class, renumber
from datasets.split import Dataset, Item, read_json, read_part
from utils.errors import UserError


def read_few_shot_file(
    path: Path, dataset: Dataset, labels: range, shots: int, short_classes: str = "error"
) -> tuple[list[Item], list[Item]]:
    """Train and validation items of the list at `path`, `labels` renumbered from 0.

    `labels`: those of `dataset` that --subsample_classes keeps. A list of all classes is cut to them; one that a run on the
    same half wrote is numbered like that half. The file may hold a test list, which must be the dataset's. Raises
    UserError if the lists do not fit the dataset's classes or `shots`, or train on test images.
    """
    lists = _read(path)
    scored = {item.path for item in dataset.test}
    if "test" in lists and {item.path for item in lists.pop("test")} != scored:
        raise UserError(f"{path}: test: is not the test list of {dataset.name}, which a few-shot list cannot change; remove it")
    names = dataset.classnames[labels.start : labels.stop]
    if not all(_fits(item, names) for items in lists.values() for item in items):
        for part, items in lists.items():
            for position, item in enumerate(items):
                if not _fits(item, dataset.classnames):
                    raise UserError(f"{path}: {part}[{position}]: {item.path}: {_misfit(item, dataset)}")
        lists = {part: renumber(items, labels) for part, items in lists.items()}
    for part, required in (("train", shots), ("val", min(shots, VAL_SHOTS))):
        refuse_absent_class(lists[part], names, f"{path}: {part}")
        _check_counts(lists[part], required, short_classes, f"{path}: {part}", names)
    leak = next((item for items in lists.values() for item in items if item.path in scored), None)
    if leak:
        raise UserError(f"{path}: {leak.path} is a test image of {dataset.name}; use it neither for training nor for validation")
    return list(lists["train"]), list(lists["val"])


def _read(path: Path) -> dict[str, Sequence[Item]]:
    document = read_json(path)
    if not isinstance(document, dict) or not {"train", "val"} <= set(document) <= set(PARTS):
        raise UserError(f"{path}: must be an object with the lists train and val, and perhaps test")
    return {part: read_part(entries, f"{path}: {part}") for part, entries in document.items()}


def _fits(item: Item, classnames: Sequence[str]) -> bool:
    return item.label < len(classnames) and classnames[item.label] == item.classname


def _misfit(item: Item, dataset: Dataset) -> str:
    if item.label >= len(dataset.classnames):
        return f"label {item.label}, but {dataset.name} has {len(dataset.classnames)} classes"
    return f"label {item.label} is {dataset.classnames[item.label]!r} in {dataset.name}, not {item.classname!r}"


def _check_counts(items: Sequence[Item], shots: int, short_classes: str, where: str, classnames: Sequence[str]) -> None:
    for label, images in sorted(per_class(items).items()):
        if images > shots or (images < shots and short_classes == "error"):
            raise UserError(
                f"{where}: class {classnames[label]!r} has {count(images)}, but --shots is {shots}"
                + ("" if images > shots else "; --short_classes take-all accepts fewer")
            )
