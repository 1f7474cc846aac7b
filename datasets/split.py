"""A dataset as lists of items, and CoOp's split files that most datasets are read from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from datasets import DATASETS
from utils.errors import UserError


class Item(NamedTuple):
    """One image: its path below the dataset's image folder, its label from 0, its class name as displayed."""

    path: str
    label: int
    classname: str


@dataclass(frozen=True)
class Dataset:
    """All items of a dataset. `open_image` reads an item as an RGB picture; `classnames[label]` names a label."""

    name: str
    classnames: tuple[str, ...]
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    open_image: Callable[[Item], Image.Image]


def load_dataset(name: str, root: str | None) -> Dataset:
    """The dataset `name`, from `root` where it is not a bundled one. Raises UserError saying what is missing or wrong."""
    if name == "digits":
        from datasets.digits import load_digits_dataset

        return load_digits_dataset()
    info = DATASETS[name]
    folder = Path(root or ".") / info.folder
    parts = read_split(folder / info.split)
    if not parts[2]:
        raise UserError(f"{folder / info.split}: test: the list is empty")
    images = folder / info.images
    return Dataset(
        name,
        class_names(parts, folder / info.split),
        *parts,
        lambda item: open_image(images / item.path),
    )


def read_split(path: Path) -> tuple[tuple[Item, ...], tuple[Item, ...], tuple[Item, ...]]:
    """Train, val and test of a CoOp split json: lists of [relative path, label, class name].

    Raises UserError naming the part and position of the first item that is malformed or whose path leaves the image folder.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: the split file is missing; DATASET.md says where it comes from") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(document, dict) or set(document) != {"train", "val", "test"}:
        raise UserError(f"{path}: must be an object with exactly train, val and test")
    return tuple(_read_part(document[part], f"{path}: {part}") for part in ("train", "val", "test"))


def _read_part(entries: object, where: str) -> tuple[Item, ...]:
    if not isinstance(entries, list):
        raise UserError(f"{where}: must be a list of [path, label, class name]")
    items = []
    for position, entry in enumerate(entries):
        here = f"{where}[{position}]"
        if not isinstance(entry, list) or len(entry) != 3:
            raise UserError(f"{here}: {str(entry)[:80]}: expected [path, label, class name]")
        path, label, name = entry
        if not isinstance(path, str) or type(label) is not int or label < 0 or not isinstance(name, str) or not name.strip():
            raise UserError(f"{here}: {str(entry)[:80]}: expected [text, whole number from 0, text]")
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path or not pure.parts:
            raise UserError(f"{here}: {path!r} must be a path below the image folder")
        items.append(Item(path, label, name))
    return tuple(items)


def class_names(parts: Sequence[Sequence[Item]], where: object) -> tuple[str, ...]:
    """Names by label over all parts. Raises UserError for a label with two names or with none."""
    names: dict[int, str] = {}
    for items in parts:
        for item in items:
            if names.setdefault(item.label, item.classname) != item.classname:
                raise UserError(f"{where}: label {item.label} has two names, {names[item.label]!r} and {item.classname!r}")
    missing = next(label for label in range(len(names) + 1) if label not in names)
    if missing < len(names) or not names:
        raise UserError(f"{where}: no item has label {missing}, though labels up to {max(names, default=0)} are used")
    return tuple(names[label] for label in range(len(names)))


def open_image(path: Path) -> Image.Image:
    """The picture at `path` in RGB, by its content (a PNG called .jpg is fine). Raises UserError naming the file."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path}: the image is missing") from None
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable image: {error}") from error
