"""Image files: how they are opened, and how a run makes sure beforehand that they are there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from utils.errors import UserError, is_unicode, shortened

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


# Pillow's other formats include some that it hands to other programs, as PostScript to Ghostscript
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")


class MissingImageError(UserError):
    """There is no file where an image should be."""


def open_image(path: Path) -> Image.Image:
    """The picture at `path` in RGB, by its content (a PNG called .jpg is fine). Raises UserError naming the file."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.convert("RGB")
    # Pillow's format plugins raise whatever their parsing of a damaged file met: a dozen types, one meaning
    except Exception as error:
        raise UserError(f"{path}: {unreadable(path, error)}") from error


def unreadable(path: Path, error: Exception) -> str:
    """Why the image at `path` could not be opened, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "the image is missing"
    if isinstance(error, IsADirectoryError):
        return "not a readable image: it is a folder"
    if isinstance(error, UnidentifiedImageError):
        empty = path.is_file() and path.stat().st_size == 0
        return "not a readable image: " + ("the file is empty" if empty else f"its content is none of {', '.join(FORMATS)}")
    if isinstance(error, MemoryError):
        return "not a readable image: it does not fit into memory"
    if isinstance(error, OSError) and error.strerror:
        return f"not a readable image: {error.strerror}"
    return f"not a readable image: {error or type(error).__name__}"


def stamp(path: Path) -> str:
    """Size and time of an image file: another content has another stamp. Raises UserError where there is no such file."""
    try:
        status = os.stat(path)  # noqa: PTH116  (Path.stat takes twice as long, and this is called for every image)
    except FileNotFoundError:
        raise MissingImageError(f"{path}: the image is missing{_missing_folder(path)}") from None
    except OSError as error:
        raise UserError(f"{shortened(str(path), 300)}: not a readable image: {error.strerror or error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path}: not a readable image: it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a readable image: it is no plain file")
    if not status.st_size:
        raise UserError(f"{path}: not a readable image: the file is empty")
    return f"{status.st_size}|{status.st_mtime_ns}"


def _missing_folder(path: Path) -> str:
    absent = [folder for folder in path.parents if not folder.exists()]
    return f" (there is no folder {absent[-1]})" if absent else ""


def class_folders(folder: Path) -> list[str]:
    """Names of the sub-folders of `folder`, sorted; hidden ones and macOS's archive litter are none. UserError if unreadable."""
    try:
        with os.scandir(folder) as entries:
            return _sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".") and e.name != "__MACOSX")
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read: {error.strerror or error}") from error


def image_names(folder: Path) -> list[str]:
    """Names of the image files in `folder`, by suffix, sorted; hidden and other files are left out. UserError if unreadable."""
    try:
        with os.scandir(folder) as entries:
            return _sorted(e.name for e in entries if is_image_name(e.name) and not e.is_dir())
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read: {error.strerror or error}") from error


def _sorted(names: Iterable[str]) -> list[str]:
    names = sorted(names)
    strange = next((name for name in names if not is_unicode(name)), None)
    if strange is not None:
        raise UserError(f"{strange!r}: a name that is no UTF-8; rename it")
    return names


def is_image_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122
