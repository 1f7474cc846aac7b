"""A dataset as lists of items, and CoOp's split files that most datasets are read from."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from PIL import Image

from datasets import DATASETS, PARTS
from datasets.images import existing, open_image, stamp
from datasets.listing import composed
from datasets.lists import read_text
from datasets.roots import dataset_folder
from utils.errors import UserError, is_unicode


class Item(NamedTuple):
    """One image: its path below the dataset's image folder, its label from 0, its class name as displayed."""

    path: str
    label: int
    classname: str


@dataclass(frozen=True)
class Dataset:
    """All items of a dataset. `open_image` reads an item as an RGB picture; `classnames[label]` names a label.

    `stamp` gives a text that changes with an item's content and raises UserError if its file is missing; None if the
    dataset has no such text. `file` gives the path of an item that is a plain file, and `reading` says how its bytes become a
    picture. `notes` are lines that the user should see. `skipped`: of a folder of images, how many entries are not images or lie
    outside the class folders, by part, and under "" those that belong to no part.
    """

    name: str
    classnames: tuple[str, ...]
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    open_image: Callable[[Item], Image.Image]
    stamp: Callable[[Item], str] | None = None
    file: Callable[[Item], Path] | None = None
    reading: str = ""
    notes: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict, compare=False)


def load_dataset(name: str, root: str | None, needed: Sequence[str] = PARTS) -> Dataset:
    """The dataset `name`, from `root` where it is not a bundled one, with at least the parts `needed`.

    Parts that are not needed may stay empty if reading them takes time. The image files are not checked here. Raises
    UserError saying what is missing or wrong.
    """
    info = DATASETS[name]
    folder = dataset_folder(name, root) if info.folder else Path()
    module, function = info.reader.split(":")
    return getattr(importlib.import_module(module), function)(name, folder, needed)


def read_split_dataset(name: str, folder: Path, needed: Sequence[str] = PARTS) -> Dataset:
    """A dataset in `folder` that has one of CoOp's split files."""
    path = folder / DATASETS[name].split
    if not path.exists():
        raise UserError(_missing_split(name, path))
    parts = read_split(path)
    if "test" in needed and not parts[2]:
        raise UserError(f"{path}: test: the list is empty")
    return of_files(name, class_names(parts, path), parts, folder / DATASETS[name].images)


def of_files(
    name: str,
    classnames: Sequence[str],
    parts: Sequence[Sequence[Item]],
    images: Path,
    as_displayed: bool = False,
    notes: tuple[str, ...] = (),
    skipped: Mapping[str, int] | None = None,
) -> Dataset:
    """A dataset whose items are files below `images`. `as_displayed`: see `datasets.images.open_image`."""
    train, val, test = map(tuple, parts)
    return Dataset(
        name,
        tuple(classnames),
        train,
        val,
        test,
        lambda item: open_image(images / item.path, as_displayed),
        lambda item: stamp(images / item.path),
        lambda item: existing(images / item.path),
        "as displayed" if as_displayed else "as stored",
        notes,
        skipped or {},
    )


def _missing_split(name: str, path: Path) -> str:
    from datasets.sources import SOURCES

    source = SOURCES[name]
    expected = [piece.path for piece in source.pieces if piece.path != path.name] + list(source.annotations)
    present = [entry for entry in expected if (path.parent / entry).exists()]
    present_files = f" (present: {', '.join(present)}, which cannot replace it)" if present else ""
    return (
        f"{path}: the split file is missing{present_files}: CoOp drew its split at random, so it cannot be remade; "
        f"`python -m tools.data download {name} --root_path {path.parent.parent}` fetches it, and DATASET.md names its source"
    )


def read_split(path: Path) -> tuple[tuple[Item, ...], tuple[Item, ...], tuple[Item, ...]]:
    """Train, val and test of a CoOp split json: lists of [relative path, label, class name].

    Raises UserError naming the part and position of the first item that is malformed or whose path leaves the image folder.
    """
    document = read_json(path)
    if not isinstance(document, dict) or set(document) != set(PARTS):
        raise UserError(f"{path}: must be an object with exactly train, val and test")
    train, val, test = (read_part(document[part], f"{path}: {part}") for part in PARTS)
    return train, val, test


def read_json(path: Path) -> object:
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        raise UserError(f"{path}: the split file is missing; DATASET.md names its source") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from error


def read_part(entries: object, where: str) -> tuple[Item, ...]:
    """The items of one list of a split file; backslashes of lists made on Windows become slashes.

    Raises UserError naming the position of the first malformed entry.
    """
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
        if not is_unicode(path + name):
            raise UserError(f"{here}: {str(entry)[:80]!r}: invalid Unicode (unpaired surrogate)")
        pure = PurePosixPath(path.replace("\\", "/"))
        absolute = pure.is_absolute() or PureWindowsPath(path).is_absolute()
        if absolute or ".." in pure.parts or "\0" in path or not pure.parts:
            raise UserError(f"{here}: {path!r} must be a path below the image folder")
        items.append(Item(path.replace("\\", "/"), label, name))
    return tuple(items)


def class_names(parts: Sequence[Sequence[Item]], where: object) -> tuple[str, ...]:
    """Names by label over all parts. Raises UserError for a label with two names or without one."""
    names: dict[int, str] = {}
    for items in parts:
        for item in items:
            if composed(names.setdefault(item.label, item.classname)) != composed(item.classname):
                raise UserError(f"{where}: label {item.label} has two names, {names[item.label]!r} and {item.classname!r}")
    missing = next(label for label in range(len(names) + 1) if label not in names)
    if missing < len(names) or not names:
        raise UserError(f"{where}: no item has label {missing}, though labels up to {max(names, default=0)} are used")
    return tuple(names[label] for label in range(len(names)))
