"""The bundled icon sets: ten few-shot sets and four shifts, cut from icon sets that the Icons towers never saw.

Each lies in one safetensors file beside this one, which `tools/maintain/build_icons.py` wrote:

    pictures  (bytes,) uint8   every picture as a lossless WebP, one after the other
    ends      (N,) int64       where each picture ends
    labels    (N,) int16       its class
    parts     (N,) uint8       0 training pool, 1 validation pool, 2 test
    hashes    (N, 5) uint8     the start of a hash of what it shows, as in training_hashes.safetensors
    sources   (bytes,) uint8   "ICON SET/ICON NAME" of each, a line each, in UTF-8

and the class names as JSON in the metadata. LICENSES.md names the author and the license of every icon set used.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from datasets import PARTS
from datasets.split import Dataset, Item
from utils.errors import UserError

FOLDER = Path(__file__).parent


class IconFile(NamedTuple):
    """What a file holds. `pictures`: the WebP of each; `sources`: where each is from."""

    classes: tuple[str, ...]
    pictures: tuple[bytes, ...]
    labels: tuple[int, ...]
    parts: tuple[int, ...]
    sources: tuple[str, ...]


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.safetensors"


@lru_cache(maxsize=4)
def read_icon_file(path: Path) -> IconFile:
    """Raises UserError where the file is missing or is not such a file."""
    try:
        with safe_open(path, "np") as file:
            data, ends, labels, parts, sources = (
                file.get_tensor(key) for key in ("pictures", "ends", "labels", "parts", "sources")
            )
            classes = tuple(json.loads(file.metadata()["classes"]))
        starts = np.concatenate([[0], ends[:-1]])
        pictures = tuple(data[start:end].tobytes() for start, end in zip(starts, ends, strict=True))
        lines = tuple(sources.tobytes().decode().splitlines())
        content = IconFile(classes, pictures, tuple(labels.tolist()), tuple(parts.tolist()), lines)
        if len({len(column) for column in content[1:]}) > 1 or max(content.labels) >= len(classes):
            raise ValueError("its parts do not fit together")
        return content
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a bundled icon set: {error}") from error


def read_icons(name: str, folder: Path | None = None, needed: Sequence[str] = PARTS) -> Dataset:
    """The bundled set `name`; a reader's other arguments mean nothing here. Items have paths "ICON SET/ICON NAME"."""
    file = read_icon_file(path_of(name))
    lists: tuple[list[Item], ...] = ([], [], [])
    for part, label, source in zip(file.parts, file.labels, file.sources, strict=True):
        lists[part].append(Item(source, label, file.classes[label]))
    picture_of = dict(zip(file.sources, file.pictures, strict=True))

    def open_image(item: Item) -> Image.Image:
        with Image.open(io.BytesIO(picture_of[item.path]), formats=("WEBP",)) as image:
            return image.convert("RGB")

    train, val, test = map(tuple, lists)
    return Dataset(name, file.classes, train, val, test, open_image, lambda item: picture_of[item.path].hex())
