"""The embedded default: scikit-learn's 1 797 handwritten digits, which its package carries.

Split by a fixed rule, so that no file is needed: the j-th image of its class, in scikit-learn's order, is a training image
where j mod 10 is 0 to 4, a validation image where it is 5 or 6, and a test image where it is 7 to 9 (50/20/30, as CoOp cuts).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets import PARTS
from datasets.split import Dataset, Item

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PART_OF_TEN = ("train",) * 5 + ("val",) * 2 + ("test",) * 3


def read_digits(name: str = "digits", folder: Path | None = None, needed: Sequence[str] = PARTS) -> Dataset:
    """Items have paths "digit/POSITION", the position in scikit-learn's order. A reader's arguments mean nothing here."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 0 to 16 levels of ink, white on black
    pictures = (digits.images * (255 / 16)).round().astype(np.uint8)
    seen: Counter[int] = Counter()
    parts: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    for position, label in enumerate(digits.target.tolist()):
        parts[PART_OF_TEN[seen[label] % 10]].append(Item(f"digit/{position:04d}", label, NAMES[label]))
        seen[label] += 1

    train, val, test = (tuple(parts[part]) for part in PARTS)
    return Dataset("digits", NAMES, train, val, test, *access(pictures))


def access(pictures: np.ndarray) -> tuple[Callable[[Item], Image.Image], Callable[[Item], str]]:
    """`open_image` and `stamp` of items that are positions among gray `pictures` (n, H, W) uint8."""

    def open_image(item: Item) -> Image.Image:
        return Image.fromarray(pictures[position_of(item)]).convert("RGB")

    return open_image, lambda item: f"{item.path}|{pictures[position_of(item)].tobytes().hex()}"


def position_of(item: Item) -> int:
    """The number that ends an item's path."""
    return int(item.path.rpartition("/")[2])
