"""Few-shot lists by CoOp's rule: for each class in order of first appearance, a random sample without repeats."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from datasets.split import Dataset, Item
from utils.errors import UserError
from utils.files import write_json

VAL_SHOTS = 4


def draw_few_shot(dataset: Dataset, shots: int, generator: random.Random) -> tuple[list[Item], list[Item]]:
    """Train items (`shots` a class) and validation items (min(shots, 4) a class), from one stream in that order.

    A dataset without a validation list of its own (ImageNet, whose CoOp validation set is its test set) has its validation
    items drawn from the training images that were not used.
    """
    train = sample_classes(dataset.train, shots, generator, f"{dataset.name}: train")
    pool = dataset.val
    if not pool:
        used = set(train)
        pool = tuple(item for item in dataset.train if item not in used)
    val = sample_classes(pool, min(shots, VAL_SHOTS), generator, f"{dataset.name}: val")
    for part, items in (("train", train), ("val", val)):
        absent = set(range(len(dataset.classnames))) - {item.label for item in items}
        if absent:
            raise UserError(f"{dataset.name}: {part}: class {dataset.classnames[min(absent)]!r} has no images")
    return train, val


def sample_classes(items: Sequence[Item], shots: int, generator: random.Random, where: str) -> list[Item]:
    """`shots` items of each class, classes in order of first appearance. Raises UserError for a class with too few."""
    by_label: dict[int, list[Item]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    drawn = []
    for members in by_label.values():
        if len(members) < shots:
            raise UserError(f"{where}: class {members[0].classname!r} has {len(members)} images, fewer than {shots} shots")
        drawn += generator.sample(members, shots)
    return drawn


def write_split(path: Path, train: Sequence[Item], val: Sequence[Item]) -> None:
    """The drawn lists in CoOp's split form."""
    write_json(path, {"train": [list(item) for item in train], "val": [list(item) for item in val]}, indent=None)
