"""Few-shot lists by CoOp's rule: for each class in order of first appearance, a random sample without repeats."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

from datasets.classes import VAL_SHOTS, count, cut_classes, kept_labels, per_class, refuse_absent_class, renumber
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
    they are read instead of drawn. `short_classes`: "error", or "take-all" images of a class that has fewer than `shots`, which
    the dataset's notes then mention.
    """
    kept = cut_classes(dataset, classes)
    labels = kept_labels(len(dataset.classnames), classes)
    if split_file:
        train, val = read_few_shot_file(Path(split_file), dataset, labels, shots, short_classes)
    else:
        drawn = draw_few_shot(dataset, shots, generator, short_classes)
        train, val = (renumber(items, labels) for items in drawn)
    return dataclasses.replace(kept, notes=(*kept.notes, *_short_notes(kept, train, shots))), train, val


def _short_notes(dataset: Dataset, train: Sequence[Item], shots: int) -> list[str]:
    """A line on classes that train with fewer images than shots."""
    short = {label: n for label, n in per_class(train).items() if n < shots}
    if not short:
        return []
    least = min(short, key=short.__getitem__)
    return [
        f"{len(short)} of {len(dataset.classnames)} classes have fewer than {shots} training images and use all of them; the "
        f"smallest, {dataset.classnames[least]!r}, has {short[least]}"
    ]


def draw_few_shot(
    dataset: Dataset, shots: int, generator: random.Random, short_classes: str = "error"
) -> tuple[list[Item], list[Item]]:
    """Train items (`shots` per class) and validation items (min(shots, 4) per class), from one stream in that order.

    A dataset without a validation list of its own (ImageNet, whose CoOp validation set is its test set) has its validation
    items drawn from the unused training images. With "take-all" a small class reserves some images for that. Raises
    UserError if a class has no image left to validate on.
    """
    reserve = not dataset.val and short_classes == "take-all"
    train = sample_classes(dataset.train, shots, generator, f"{dataset.name}: train", short_classes, reserve)
    pool = dataset.val
    if not pool:
        used = set(train)
        pool = tuple(item for item in dataset.train if item not in used)
        _refuse_nothing_left(dataset, pool, shots)
    val = sample_classes(pool, min(shots, VAL_SHOTS), generator, f"{dataset.name}: val", short_classes)
    for part, items in (("train", train), ("val", val)):
        refuse_absent_class(items, dataset.classnames, f"{dataset.name}: {part}")
    return train, val


def _refuse_nothing_left(dataset: Dataset, pool: Sequence[Item], shots: int) -> None:
    total, left = per_class(dataset.train), per_class(pool)
    for label, images in sorted(total.items()):
        if not left[label]:
            fewer = f"use --shots {images - 1}, " if images > 1 else ""
            raise UserError(
                f"--shots: class {dataset.classnames[label]!r} has {count(images)} to train on and --shots {shots} uses all of "
                f"them, which leaves none for validation ({dataset.name} has no validation part); {fewer}add training images or "
                "a val/ folder, or use --short_classes take-all, which reserves some"
            )


def reserved(images: int) -> int:
    """How many of a small class's training images are reserved for validation: a fifth, at least 1 and at most 4."""
    return min(VAL_SHOTS, max(1, images // 5))


def sample_classes(
    items: Sequence[Item],
    shots: int,
    generator: random.Random,
    where: str,
    short_classes: str = "error",
    reserve: bool = False,
) -> list[Item]:
    """`shots` items of each class, classes in order of first appearance. Raises UserError for a class with too few.

    With short_classes "take-all" such a class contributes all of its items, in their order; as in Dassl, nothing is drawn for it.
    With `reserve` a class that has no more items than shots leaves `reserved` of them undrawn.
    """
    by_label: dict[int, list[Item]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    drawn = []
    for members in by_label.values():
        if reserve and 1 < len(members) <= shots:
            drawn += generator.sample(members, len(members) - reserved(len(members)))
        elif len(members) >= shots:
            drawn += generator.sample(members, shots)
        elif short_classes == "take-all":
            drawn += members
        else:
            raise UserError(
                f"{where}: class {members[0].classname!r} has {count(len(members))}, fewer than {shots} shots; "
                "use fewer --shots, or --short_classes take-all to train small classes on all their images"
            )
    return drawn


def few_shot_document(train: Sequence[Item], val: Sequence[Item]) -> dict[str, list[list[str | int]]]:
    """The drawn lists in CoOp's split form."""
    return {"train": [list(item) for item in train], "val": [list(item) for item in val]}


def write_split(path: Path, train: Sequence[Item], val: Sequence[Item]) -> None:
    write_json(path, few_shot_document(train, val), indent=None)
