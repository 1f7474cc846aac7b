"""The bundled icon sets: ten few-shot sets and four shifts, cut from icon sets that the Icons towers were not trained on.

Each set is one safetensors file next to this module, written by `tools/maintain/build_icons.py`:

    pictures  (bytes,) uint8   all images as lossless WebP, concatenated
    ends      (N,) int64       the end of each image in `pictures`
    labels    (N,) int16       the class of each image
    parts     (N,) uint8       0 training pool, 1 validation pool, 2 test
    hashes    (N, 5) uint8     the first bytes of a hash of the pixels, as in training_hashes.safetensors
    sources   (bytes,) uint8   "ICON SET/ICON NAME" of each image, one per line, in UTF-8

with the class names as JSON in the metadata. LICENSES.md names the author and the license of every icon set used.
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
    """The content of a file. `pictures`: each image as WebP; `sources`: where each image comes from."""

    classes: tuple[str, ...]
    pictures: tuple[bytes, ...]
    labels: tuple[int, ...]
    parts: tuple[int, ...]
    sources: tuple[str, ...]


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.safetensors"


@lru_cache(maxsize=4)
def read_icon_file(path: Path) -> IconFile:
    """Raises UserError if the file is missing or is not a bundled icon set."""
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
            raise ValueError("its tensors differ in length, or a label has no class name")
        return content
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a bundled icon set: {error}; restore the file from the repository") from error


def read_icons(name: str, folder: Path | None = None, needed: Sequence[str] = PARTS) -> Dataset:
    """The bundled set `name`; the other arguments of a reader have no effect. Items have paths "ICON SET/ICON NAME"."""
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
