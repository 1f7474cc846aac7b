"""Any folder of images as a dataset: one sub-folder per class, either directly or below train/, val/ (optional) and test/.

Without train/ and test/, each class is split 50/20/30 by a fixed rule: its files are ordered by the SHA-256 of "CLASS/FILE", and
the first half is for training. The split depends on the names alone, so all seeds share one test set.
"""

from __future__ import annotations

import hashlib
import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from datasets import PARTS
from datasets.classes import count
from datasets.listing import Listing, class_folders, composed, describe, list_images
from datasets.lists import list_lines
from datasets.split import Dataset, Item, of_files
from utils.errors import UserError

NAMES_FILE = "classnames.txt"
SHOWN = 3


def read_folder(name: str, folder: Path, needed: Sequence[str] = PARTS) -> Dataset:
    """Labels are the sorted class folders; names are the folders' or those of classnames.txt (lines "FOLDER NAME").

    Images are read as a viewer displays them. The dataset's `notes` count the files that were skipped. Raises UserError for fewer
    than two classes, classes that differ between the parts, two classes with one prompt, and classes too small to be split.
    """
    present = class_folders(folder)
    if not present:
        raise UserError(f"{folder}: no class folders; put the images of each class into a sub-folder named after the class")
    divided = [part for part in PARTS if part in present and class_folders(folder / part)]
    if not divided:
        names = _names(folder, present)
        listings = {key: list_images(folder / key) for key in names}
        _refuse_one_class(folder, names)
        parts = _split(folder, listings, names)
    else:
        names = _names(folder, class_folders(folder / "train") if "train" in divided else [])
        _refuse_strays(folder, present, divided)
        _refuse_one_class(folder / "train", names)
        listings = _list_parts(folder, divided, names)
        parts = [_items({key: _paths(f"{part}/{key}", listings) for key in names}, names) for part in PARTS]
    _refuse_equal_prompts(folder, names)
    outside = {".": list_images(folder), **{part: list_images(folder / part) for part in divided}}
    notes, skipped = _notes(folder, listings, outside, divided), _skipped(listings, outside, divided)
    return of_files(name, list(names.values()), parts, folder, as_displayed=True, notes=notes, skipped=skipped)


def _names(folder: Path, classes: Sequence[str]) -> dict[str, str]:
    """Displayed names by class folder. A folder's name may contain spaces, so the longest one that begins a line counts."""
    path = folder / NAMES_FILE
    if not path.exists():
        return {key: composed(key) for key in classes}
    names: dict[str, str] = {}
    for where, line in list_lines(path):
        text = composed(line)
        key = max((key for key in classes if text.startswith((f"{composed(key)} ", f"{composed(key)}\t"))), key=len, default=None)
        if key is None:
            raise UserError(f"{where}: {line[:80]!r}: expected a class folder, a space and the name to display")
        if key in names:
            raise UserError(f"{where}: the class folder {key!r} is listed twice")
        names[key] = text.removeprefix(composed(key)).strip()
    unnamed = [key for key in classes if key not in names]
    if unnamed:
        raise UserError(f"{path}: the class folder {unnamed[0]!r} has no line")
    return {key: names[key] for key in classes}


def _refuse_one_class(folder: Path, names: Mapping[str, str]) -> None:
    if len(names) == 1:
        raise UserError(
            f"{folder}: holds one class folder, {next(iter(names))!r}; with one class every prompt scores 100%; add at least one "
            "more"
        )


def _refuse_equal_prompts(folder: Path, names: Mapping[str, str]) -> None:
    """Of two classes with the same prompt, one could never be predicted. CLIP's tokenizer ignores case and repeated blanks."""
    seen: dict[str, str] = {}
    for key, name in names.items():
        text = " ".join(html.unescape(html.unescape(composed(name))).replace("_", " ").lower().split())
        other = seen.setdefault(text, key)
        if other == key:
            continue
        pair = f"{folder}: the class folders {other!r} and {key!r}"
        if composed(other) == composed(key):
            raise UserError(f"{pair} have one name in two Unicode forms; merge them or rename one")
        advice = f"give them different names in {NAMES_FILE} (lines FOLDER NAME), or merge them"
        raise UserError(f"{pair} have the same prompt, {text!r}; {advice}")


def _refuse_strays(folder: Path, present: Sequence[str], divided: Sequence[str]) -> None:
    for part in ("train", "test"):
        if part not in divided:
            raise UserError(f"{folder}: has {divided[0]}/ with class folders, but {part}/ has none; both are required")
    stray = [key for key in present if key not in PARTS]
    if stray:
        raise UserError(f"{folder / stray[0]}: not train/, val/ or test/, which hold the class folders; move or remove it")


def _list_parts(folder: Path, divided: Sequence[str], names: Mapping[str, str]) -> dict[str, Listing]:
    """Listings by "PART/CLASS". Raises UserError if a part has other classes than train/, or a class without images."""
    listings = {}
    for part in divided:
        classes = {composed(key): key for key in class_folders(folder / part)}
        for key in sorted(set(classes) ^ set(map(composed, names))):
            what = "is not a class of train/" if key in classes else "has no folder here, though train/ has it"
            raise UserError(f"{folder / part}: {key!r} {what}")
        for key in names:
            place = f"{part}/{classes[composed(key)]}"
            listing = list_images(folder / place)
            if not listing.images:
                raise UserError(f"{folder / place}: the class has no images{_instead(listing)}")
            listings[f"{part}/{key}"] = Listing([f"{place}/{file}" for file in listing.images], listing.others)
    return listings


def _paths(place: str, listings: Mapping[str, Listing]) -> list[str]:
    return listings[place].images if place in listings else []


def _split(folder: Path, listings: Mapping[str, Listing], names: Mapping[str, str]) -> list[list[Item]]:
    by_part: list[dict[str, list[str]]] = [{}, {}, {}]
    for key, listing in listings.items():
        divided = split_names([f"{key}/{file}" for file in listing.images])
        if not all(divided):
            raise UserError(
                f"{folder / key}: the class has {count(len(listing.images))}{_instead(listing)}, too few to split 50/20/30; "
                "add some, or sort them into train/ and test/"
            )
        for part, chosen in zip(by_part, divided, strict=True):
            part[key] = chosen
    return [_items(part, names) for part in by_part]


def _instead(listing: Listing) -> str:
    return f" (besides {describe(listing.others)}; convert pictures of other formats to JPEG or PNG)" if listing.others else ""


def _notes(
    folder: Path, classes: Mapping[str, Listing], outside: Mapping[str, Listing], divided: Sequence[str]
) -> tuple[str, ...]:
    """A line per part (or one in all) on what the class folders hold besides images, and one on images outside them."""
    notes = []
    for place in divided or ["."]:
        part = {key: listing for key, listing in classes.items() if not divided or key.startswith(f"{place}/")}
        others = sum((listing.others for listing in part.values()), Counter[str]())
        if not others:
            continue
        holders = [key for key, listing in part.items() if listing.others]
        more = f" and {len(holders) - SHOWN} more" if len(holders) > SHOWN else ""
        used = count(sum(len(listing.images) for listing in part.values()))
        notes.append(
            f"{folder / place}: {used}; skipped {describe(others)} in class folder{'s' * (len(holders) > 1)} "
            f"{', '.join(holders[:SHOWN])}{more}"
        )
    for place, listing in outside.items():
        if listing.images:
            notes.append(f"{folder / place}: skipped {count(len(listing.images))} outside the class folders")
    return tuple(notes)


def _skipped(classes: Mapping[str, Listing], outside: Mapping[str, Listing], divided: Sequence[str]) -> dict[str, int]:
    """How many entries of class folders are not images, and how many images lie outside them: by part, or all under ""."""
    skipped = {"": len(outside["."].images)} | {part: len(outside[part].images) for part in divided}
    for key, listing in classes.items():
        skipped[key.partition("/")[0] if divided else ""] += listing.others.total()
    return skipped


def in_hash_order(paths: Iterable[str]) -> list[str]:
    """Paths "CLASS/FILE" by the SHA-256 of their composed form: an order that depends on each name alone."""
    return sorted(paths, key=lambda path: hashlib.sha256(composed(path).encode("utf-8", "surrogateescape")).digest())


def split_names(paths: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
    """One class's paths "CLASS/FILE" cut 50/20/30 in hash order into sorted train, val and test, possibly empty."""
    ordered = in_hash_order(paths)
    first, second = round(0.5 * len(ordered)), round(0.7 * len(ordered))
    train, val, test = ordered[:first], ordered[first:second], ordered[second:]
    return sorted(train, key=composed), sorted(val, key=composed), sorted(test, key=composed)


def _items(files: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> list[Item]:
    return [Item(path, label, names[key]) for label, key in enumerate(files) for path in files[key]]
