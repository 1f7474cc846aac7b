"""Class arithmetic: which half of the classes a run keeps, how labels are renumbered, and classes without images."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

from datasets.split import Dataset, Item
from utils.errors import UserError
from utils.numbers import ceil_div

VAL_SHOTS = 4


def refuse_absent_class(items: Iterable[Item], classnames: Sequence[str], where: str) -> None:
    absent = set(range(len(classnames))) - {item.label for item in items}
    if absent:
        raise UserError(f"{where}: class {classnames[min(absent)]!r} has no images")


def count(images: int) -> str:
    return f"{images} image{'s' if images != 1 else ''}"


def kept_labels(classes: int, subsample: str) -> range:
    """Labels that CoOp's subsample_classes keeps: all, base (the first ceil(n/2)) or new (the rest)."""
    half = ceil_div(classes, 2)
    return {"all": range(classes), "base": range(half), "new": range(half, classes)}[subsample]


def cut_classes(dataset: Dataset, subsample: str) -> Dataset:
    """The dataset with only the classes that `subsample` keeps, renumbered from 0. Raises UserError if no class remains."""
    labels = kept_labels(len(dataset.classnames), subsample)
    if not labels:
        raise UserError(f"--subsample_classes: {dataset.name} has one class, so its {subsample!r} half is empty")
    if len(labels) == 1:
        note = f"one class, {dataset.classnames[labels.start]!r}, is left, so every prompt scores 100%"
        dataset = dataclasses.replace(dataset, notes=(*dataset.notes, note))
    if subsample == "all":
        return dataset
    names = dataset.classnames[labels.start : labels.stop]
    train, val, test = (tuple(renumber(part, labels)) for part in (dataset.train, dataset.val, dataset.test))
    return dataclasses.replace(dataset, classnames=names, train=train, val=val, test=test)


def renumber(items: Iterable[Item], labels: range) -> list[Item]:
    """The items with these labels, renumbered from 0."""
    return [item._replace(label=item.label - labels.start) for item in items if item.label in labels]


def per_class(items: Iterable[Item]) -> Counter[int]:
    return Counter(item.label for item in items)
