"""Few-shot lists by CoOp's rule: for each class in order of first appearance, a random sample without repeats."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from datasets.classes import VAL_SHOTS, count, cut_classes, kept_labels, refuse_absent_class, renumber
from datasets.fewshot_file import read_few_shot_file
from datasets.split import Dataset, Item
from utils.errors import UserError
from utils.files import write_json


def choose_images(
    dataset: Dataset,
    shots: int,
    generator: random.Random,
    short_classes: str = "error",
    split_file: str | None = None,
    classes: str = "all",
) -> tuple[Dataset, list[Item], list[Item]]:
    """The dataset with the classes that `classes` (all, base, new) keeps, and its few-shot train and validation items.

    As in CoOp, the lists are drawn on all classes first and then cut, so that base and new share one draw. With `split_file`
    they are read instead of drawn. `short_classes`: "error", or "take-all" images of a class that has fewer than `shots`.
    """
    kept = cut_classes(dataset, classes)
    labels = kept_labels(len(dataset.classnames), classes)
    if not split_file:
        train, val = draw_few_shot(dataset, shots, generator, short_classes)
        return kept, renumber(train, labels), renumber(val, labels)

    return kept, *read_few_shot_file(Path(split_file), dataset, labels, shots, short_classes)


def draw_few_shot(
    dataset: Dataset, shots: int, generator: random.Random, short_classes: str = "error"
) -> tuple[list[Item], list[Item]]:
    """Train items (`shots` a class) and validation items (min(shots, 4) a class), from one stream in that order.

    A dataset without a validation list of its own (ImageNet, whose CoOp validation set is its test set) has its validation
    items drawn from the training images that were not used.
    """
    train = sample_classes(dataset.train, shots, generator, f"{dataset.name}: train", short_classes)
    pool = dataset.val
    if not pool:
        used = set(train)
        pool = tuple(item for item in dataset.train if item not in used)
    val = sample_classes(pool, min(shots, VAL_SHOTS), generator, f"{dataset.name}: val", short_classes)
    for part, items in (("train", train), ("val", val)):
        refuse_absent_class(items, dataset.classnames, f"{dataset.name}: {part}")
    return train, val


def sample_classes(
    items: Sequence[Item], shots: int, generator: random.Random, where: str, short_classes: str = "error"
) -> list[Item]:
    """`shots` items of each class, classes in order of first appearance. Raises UserError for a class with too few.

    With short_classes "take-all" such a class gives all it has, in their order; as in Dassl, nothing is drawn for it.
    """
    by_label: dict[int, list[Item]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    drawn = []
    for members in by_label.values():
        if len(members) >= shots:
            drawn += generator.sample(members, shots)
        elif short_classes == "take-all":
            drawn += members
        else:
            raise UserError(
                f"{where}: class {members[0].classname!r} has {count(len(members))}, fewer than {shots} shots; "
                "--short_classes take-all takes what is there"
            )
    return drawn


def few_shot_document(train: Sequence[Item], val: Sequence[Item]) -> dict[str, list[list]]:
    """The drawn lists in CoOp's split form."""
    return {"train": [list(item) for item in train], "val": [list(item) for item in val]}


def write_split(path: Path, train: Sequence[Item], val: Sequence[Item]) -> None:
    write_json(path, few_shot_document(train, val), indent=None)
