"""ImageNet and its four shifts: one folder per class, named by wnid (in V2 by label), and the list of class names.

Names are CLIP's curated ones, two of them twice ("missile", "sunglasses"). They come from the dataset's own classnames.txt
(lines "wnid name"), from imagenet/classnames.txt beside it, or from the same list in this package, which the released code's
layout relies on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import DATASETS, PARTS
from datasets.listing import class_folders, image_names
from datasets.lists import list_lines
from datasets.split import Dataset, Item, of_files
from utils.errors import UserError

BUNDLED_NAMES = Path(__file__).with_name("imagenet_classnames.txt")
WNID = re.compile(r"n\d{8}")


def read_imagenet(name: str, folder: Path, needed: Sequence[str] = PARTS) -> Dataset:
    """images/train and images/val, files in sorted order. The official validation set is the test set, and val is empty.

    images/train is listed only where train or val is needed. Raises UserError for missing or foreign class folders.
    """
    names, source = read_names(folder)
    labels = {wnid: label for label, wnid in enumerate(names)}
    images = folder / DATASETS[name].images
    train = _class_items(images, "train", labels, names, source) if {"train", "val"} & set(needed) else []
    test = _class_items(images, "val", labels, names, source) if "test" in needed else []
    return of_files(name, list(names.values()), (train, [], test), images)


def read_shift(name: str, folder: Path, needed: Sequence[str] = PARTS) -> Dataset:
    """A test set alone. A and R have their own 200 classes, labeled in the order of their wnids; V2's folders are labels."""
    names, source = read_names(folder)
    images = folder / DATASETS[name].images
    if name == "imagenet_sketch" and not images.is_dir() and (folder / "sketch").is_dir():
        images = folder / "sketch"
    if name == "imagenetv2":
        labels = {str(label): label for label in range(len(names))}
        displayed = dict(zip(labels, names.values(), strict=True))
    else:
        wnids = list(names)
        if name in ("imagenet_a", "imagenet_r"):
            wnids = _own_classes(name, images, names, source)
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        displayed = {wnid: names[wnid] for wnid in wnids}
    return of_files(name, list(displayed.values()), ([], [], _class_items(images, "", labels, displayed, source)), images)


def read_names(folder: Path) -> tuple[dict[str, str], Path]:
    """Names by wnid, wnids sorted (a label is a position), and the file they are from. UserError names a wrong line."""
    beside = (folder / "classnames.txt", folder.parent / "imagenet" / "classnames.txt", BUNDLED_NAMES)
    path = next(candidate for candidate in beside if candidate.exists())
    names: dict[str, str] = {}
    for where, line in list_lines(path):
        wnid, _, name = line.partition(" ")
        if not WNID.fullmatch(wnid) or not name.strip():
            raise UserError(f"{where}: {line[:80]!r}: expected a wnid (n and 8 digits), a space and a name")
        if wnid in names:
            raise UserError(f"{where}: {wnid} is listed twice")
        names[wnid] = name.strip()
    return dict(sorted(names.items())), path


def _own_classes(name: str, images: Path, names: Mapping[str, str], source: Path) -> list[str]:
    """The wnids that ImageNet-A or -R has: its folders, which must be as many as are known and agree with its README.txt."""
    folders = class_folders(images)
    sizes = DATASETS[name].sizes
    known = sizes.classes if sizes else 0
    readme = images / "README.txt"
    if readme.is_file():
        text = readme.read_text(encoding="utf-8", errors="replace")
        listed = re.findall(rf"^({WNID.pattern})\s+\S", text, flags=re.MULTILINE)
        for wnid in sorted(set(listed) ^ set(folders)) if listed else ():
            what = "is listed, but its folder is missing" if wnid in listed else "has a folder, but is not listed"
            raise UserError(f"{readme}: {wnid} {what}")
    foreign = next((wnid for wnid in folders if wnid not in names), None)
    if foreign:
        raise UserError(f"{images / foreign}: {foreign} is not a class of {source}")
    if len(folders) != known:
        raise UserError(f"{images}: {len(folders)} class folders; {name} has {known} classes and is scored among exactly those")
    return folders


def _class_items(images: Path, part: str, labels: Mapping[str, int], names: Mapping[str, str], source: Path) -> list[Item]:
    """Items of all class folders of images/PART, in label order. Raises UserError if folders and labels differ."""
    folder = images / part
    if not folder.is_dir():
        raise UserError(f"{folder}: the folder is missing")
    present = set(class_folders(folder))
    missing = [key for key in labels if key not in present]
    if len(missing) == len(labels) and image_names(folder):
        raise UserError(f"{folder}: the images are not in class folders; move them into one folder per class ({missing[0]} …)")
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{folder}: no folder for class {missing[0]}{more} of the {len(labels)} in {source}")
    foreign = sorted(present - labels.keys())
    if foreign:
        raise UserError(f"{folder / foreign[0]}: {foreign[0]} is not a class of {source}")
    prefix = f"{part}/" if part else ""
    items = []
    for key, label in labels.items():
        files = image_names(folder / key)
        if not files:
            raise UserError(f"{folder / key}: class {names[key]!r} has no images")
        items += [Item(f"{prefix}{key}/{file}", label, names[key]) for file in files]
    return items
