"""Any folder of images as a dataset: one sub-folder a class, either below train/, val/ (optional) and test/, or directly.

Without those, each class is split 50/20/30 by a fixed rule: its files are ordered by the SHA-256 of "CLASS/FILE", and the first
half trains. The split depends on nothing but the names, so every seed shares one test set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from datasets import PARTS
from datasets.images import class_folders, image_names
from datasets.lists import list_lines
from datasets.split import Dataset, Item, of_files
from utils.errors import UserError

NAMES_FILE = "classnames.txt"


def read_folder(name: str, folder: Path, needed: Sequence[str] = PARTS) -> Dataset:
    """Labels are the sorted class folders; names are theirs, or those that classnames.txt gives (lines "FOLDER NAME").

    Raises UserError for classes that differ between the parts, and for classes with too few images to be split.
    """
    present = class_folders(folder)
    if not present:
        raise UserError(f"{folder}: no class folders; put each class's images in a sub-folder of its own")
    divided = [part for part in PARTS if part in present and class_folders(folder / part)]
    if not divided:
        names = _names(folder, present)
        parts = _split(folder, names)
    else:
        names = _names(folder, class_folders(folder / "train") if "train" in divided else [])
        parts = _read_parts(folder, present, divided, names)
    return of_files(name, list(names.values()), parts, folder)


def _names(folder: Path, classes: Sequence[str]) -> dict[str, str]:
    """Displayed names by class folder. A folder's name may hold spaces, so the longest one that begins a line is meant."""
    path = folder / NAMES_FILE
    if not path.exists():
        return {key: key for key in classes}
    names: dict[str, str] = {}
    for where, line in list_lines(path):
        key = max((key for key in classes if line.startswith(f"{key} ")), key=len, default=None)
        if key is None:
            raise UserError(f"{where}: {line[:80]!r}: expected a class folder, a space and the name to display")
        if key in names:
            raise UserError(f"{where}: the class folder {key!r} stands twice")
        names[key] = line.removeprefix(key).strip()
    unnamed = [key for key in classes if key not in names]
    if unnamed:
        raise UserError(f"{path}: names no class folder {unnamed[0]!r}")
    twins = [key for key in classes if list(names.values()).count(names[key]) > 1]
    if twins:
        raise UserError(f"{path}: the class folders {twins[0]!r} and {twins[1]!r} share the name {names[twins[0]]!r}")
    return {key: names[key] for key in classes}


def _read_parts(folder: Path, present: Sequence[str], divided: Sequence[str], names: Mapping[str, str]) -> list[list[Item]]:
    for part in ("train", "test"):
        if part not in divided:
            raise UserError(f"{folder}: has {divided[0]}/ with class folders, but no {part}/ with class folders beside it")
    stray = [key for key in present if key not in PARTS]
    if stray:
        raise UserError(f"{folder / stray[0]}: a folder beside train/ and test/, which hold the classes; only val/ may be there")
    parts = []
    for part in PARTS:
        classes = class_folders(folder / part) if part in divided else list(names)
        for key in sorted(set(classes) ^ names.keys()):
            what = "has no folder here, though train/ has it" if key in names else "is no class of train/"
            raise UserError(f"{folder / part}: {key!r} {what}")
        files = {key: image_names(folder / part / key) if part in divided else [] for key in names}
        empty = [key for key in files if not files[key]]
        if empty and part in divided:
            raise UserError(f"{folder / part / empty[0]}: the class has no images")
        parts.append(_items({key: [f"{part}/{key}/{file}" for file in files[key]] for key in names}, names))
    return parts


def _split(folder: Path, names: Mapping[str, str]) -> list[list[Item]]:
    by_part: list[dict[str, list[str]]] = [{}, {}, {}]
    for key in names:
        files = [f"{key}/{file}" for file in image_names(folder / key)]
        divided = split_names(files)
        if not all(divided):
            raise UserError(
                f"{folder / key}: the class has {len(files)} images, too few to be split 50/20/30; add some, or lay them out "
                "in train/ and test/"
            )
        for part, chosen in zip(by_part, divided, strict=True):
            part[key] = chosen
    return [_items(part, names) for part in by_part]


def in_hash_order(paths: Iterable[str]) -> list[str]:
    """Paths "CLASS/FILE" by their SHA-256: an order that depends on each name alone."""
    return sorted(paths, key=lambda path: hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest())


def split_names(paths: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
    """One class's paths "CLASS/FILE" cut 50/20/30 in hash order, into sorted train, val and test; of very few, empty ones."""
    ordered = in_hash_order(paths)
    first, second = round(0.5 * len(ordered)), round(0.7 * len(ordered))
    return sorted(ordered[:first]), sorted(ordered[first:second]), sorted(ordered[second:])


def _items(files: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> list[Item]:
    return [Item(path, label, names[key]) for label, key in enumerate(files) for path in files[key]]
