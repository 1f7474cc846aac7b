"""FGVC-Aircraft, which CoOp reads from the official lists: variants.txt, images_variant_{train, val, test}.txt.

A list's line is a 7-digit image number, a space and a variant, which may itself hold spaces and slashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import DATASETS, PARTS
from datasets.lists import list_lines
from datasets.split import Dataset, Item, of_files
from utils.errors import UserError


def read_fgvc_aircraft(name: str, folder: Path, needed: Sequence[str] = PARTS) -> Dataset:
    """Labels are the lines of variants.txt. Raises UserError naming the list and line of the first invalid entry."""
    labels: dict[str, int] = {}
    for where, variant in list_lines(folder / "variants.txt"):
        if labels.setdefault(variant, len(labels)) != len(labels) - 1:
            raise UserError(f"{where}: the variant {variant!r} is listed twice")
    parts = [_read_list(folder / f"images_variant_{part}.txt", labels) if part in needed else [] for part in PARTS]
    return of_files(name, list(labels), parts, folder / DATASETS[name].images)


def _read_list(path: Path, labels: dict[str, int]) -> list[Item]:
    items = []
    for where, line in list_lines(path):
        number, _, variant = line.partition(" ")
        if not number.isdigit():
            raise UserError(f"{where}: {line[:80]!r}: expected an image number, a space and a variant")
        if variant not in labels:
            raise UserError(f"{where}: {variant!r} is not a line of variants.txt")
        items.append(Item(f"{number}.jpg", labels[variant], variant))
    return items
