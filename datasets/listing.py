"""What the folders of a dataset hold: class folders, image files, and entries that readers skip."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError, is_unicode

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jif .jfif .png .gif .bmp .dib .ppm .pgm .pbm .pnm .tif .tiff .webp .avif".split()  # noqa: SIM905
)
# folders that operating systems, network drives and tools make; they are not classes
SYSTEM_FOLDERS = frozenset(
    name.casefold()
    for name in (
        "__MACOSX",
        "__pycache__",
        "$RECYCLE.BIN",
        "RECYCLER",
        "#recycle",
        "#snapshot",
        "@Recycle",
        "@eaDir",
        "@tmp",
        "System Volume Information",
        "Network Trash Folder",
        "Temporary Items",
        "lost+found",
    )
)
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})


class Listing(NamedTuple):
    """The image files of one folder, sorted, and how many entries of each other kind it holds."""

    images: list[str]
    others: Counter[str]


def class_folders(folder: Path) -> list[str]:
    """Names of the sub-folders of `folder`, sorted, without hidden ones and those of the system. UserError if unreadable."""
    try:
        with os.scandir(folder) as entries:
            return _sorted(e.name for e in entries if e.is_dir() and not is_system_folder(e.name))
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read: {error.strerror or error}") from error


def is_system_folder(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


def list_images(folder: Path) -> Listing:
    """The files in `folder` with an image suffix, and a count of everything else. UserError if unreadable."""
    images, others = [], Counter[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    others["system folder" if is_system_folder(entry.name) else "folder"] += 1
                elif is_image_name(entry.name):
                    images.append(entry.name)
                else:
                    others[_kind(entry.name)] += 1
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read: {error.strerror or error}") from error
    return Listing(_sorted(images), others)


def image_names(folder: Path) -> list[str]:
    """Names of the files in `folder` with an image suffix, sorted, without hidden ones. UserError if unreadable."""
    return list_images(folder).images


def is_image_name(name: str) -> bool:
    return not name.startswith(".") and _suffix(name) in SUFFIXES


def _kind(name: str) -> str:
    if name.startswith(".") or name.casefold() in SYSTEM_FILES:
        return "hidden file"
    return _suffix(name) or "file without a suffix"


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  (half the time of Path.suffix, for every image)


def describe(others: Counter[str]) -> str:
    """The kinds of the skipped entries, as "10 .heic, 2 .txt, 1 folder"."""
    return ", ".join(f"{n} {kind}{'s' if n > 1 and not kind.startswith('.') else ''}" for kind, n in sorted(others.items()))


def composed(text: str) -> str:
    """`text` in Unicode's composed form: one name is one name, whichever system wrote it."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _sorted(names: Iterable[str]) -> list[str]:
    """Names in the order of their composed form. Raises UserError for a name that cannot be written as UTF-8."""
    names = list(names)
    undecodable = next((name for name in sorted(names) if not is_unicode(name)), None)
    if undecodable is not None:
        raise UserError(f"{undecodable!r}: the file name is not UTF-8; rename it")
    return sorted(names, key=composed)
