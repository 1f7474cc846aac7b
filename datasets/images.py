"""Image files: how they are opened, and how a run checks beforehand that they exist."""

from __future__ import annotations

import os
import stat
import unicodedata
from pathlib import Path

from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features

from datasets.pixels import to_rgb
from utils.errors import UserError, shortened

# some of Pillow's other formats start external programs, such as Ghostscript for PostScript
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", *(["AVIF"] if features.check("avif") else []))
TIFF_BEGINNINGS = (b"II*\0", b"MM\0*")
SAMPLES_PER_PIXEL, BITS_PER_SAMPLE = 277, 258


class MissingImageError(UserError):
    """The image file does not exist."""


def open_image(path: Path, as_displayed: bool = True) -> Image.Image:
    """The picture at `path` in RGB, by its content (a PNG called .jpg is fine). Raises UserError naming the file.

    `as_displayed`: upright and on white, as a viewer shows it; otherwise the stored pixels, as CoOp reads its datasets.
    """
    try:
        with Image.open(existing(path), formats=FORMATS) as image:
            return to_rgb(image, as_displayed)
    # Pillow's format plugins raise a dozen types for damaged files, all of which mean the same to the user
    except Exception as error:
        raise UserError(f"{path}: {unreadable(path, error)}") from error


def unreadable(path: Path, error: Exception) -> str:
    """Why the image at `path` could not be opened, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "the image is missing"
    if isinstance(error, IsADirectoryError):
        return "not a readable image: it is a folder"
    if isinstance(error, UnidentifiedImageError):
        return f"not a readable image: {_unidentified(path)}"
    if isinstance(error, MemoryError):
        return "not a readable image: it does not fit into memory"
    if isinstance(error, OSError) and error.strerror:
        return f"not a readable image: {error.strerror}"
    return f"not a readable image: {error or type(error).__name__}"


def _unidentified(path: Path) -> str:
    path = existing(path)
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    try:
        with path.open("rb") as file:
            head = file.read(8)
            if head.startswith(TIFF_BEGINNINGS):
                tags = TiffImagePlugin.ImageFileDirectory_v2(head)
                file.seek(tags.next)
                tags.load(file)
                bits = tags.get(BITS_PER_SAMPLE, (1,))
                return (
                    f"a TIFF of {tags.get(SAMPLES_PER_PIXEL, 1)} bands with {'/'.join(map(str, sorted(set(bits))))} bits per "
                    "sample, which Pillow does not read; save three of its bands as 8-bit RGB"
                )
    except (OSError, SyntaxError, ValueError, TypeError, LookupError):
        pass
    return f"its content is not in one of the formats {', '.join(FORMATS)}"


def existing(path: Path) -> Path:
    """`path`, or where it does not exist the file whose name is the same text in another Unicode form.

    macOS and the archives made there decompose accents; lists made elsewhere compose them.
    """
    if str(path).isascii() or path.exists():
        return path
    found = Path(path.anchor)
    for name in path.relative_to(path.anchor).parts:
        forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
        found = next((found / form for form in forms if (found / form).exists()), found / name)
    return found


def stamp(path: Path) -> str:
    """Size, times and identity of an image file: a file whose content changed has another stamp.

    The change time is included because programs can set back the modification time only. Raises UserError if the
    file does not exist.
    """
    status = file_status(path)
    times = f"{status.st_mtime_ns}|{status.st_ctime_ns}"
    return f"{status.st_size}|{times}|{status.st_dev}:{status.st_ino}"


def file_status(path: Path) -> os.stat_result:
    """The status of a file that is not empty. Raises UserError if `path` is not such a file."""
    try:
        # os.stat takes half the time of Path.stat, and this is called for every image
        status = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        other = existing(path)
        if other != path:
            return file_status(other)
        raise MissingImageError(f"{path}: the image is missing{_missing_folder(path)}") from None
    except OSError as error:
        raise UserError(f"{shortened(str(path), 300)}: not a readable image: {error.strerror or error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path}: not a readable image: it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a readable image: it is not a regular file")
    if not status.st_size:
        raise UserError(f"{path}: not a readable image: the file is empty")
    return status


def _missing_folder(path: Path) -> str:
    absent = [folder for folder in path.parents if not folder.exists()]
    return f" (folder {absent[-1]} does not exist)" if absent else ""
