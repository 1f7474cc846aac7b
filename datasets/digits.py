"""The embedded default: scikit-learn's 1 797 handwritten digits, which its package carries.

Split by a fixed rule, so that no file is needed: the j-th image of its class, in scikit-learn's order, is a training image
where j mod 10 is 0 to 4, a validation image where it is 5 or 6, and a test image where it is 7 to 9 (50/20/30, as CoOp cuts).
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from PIL import Image

from datasets.split import Dataset, Item

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PARTS = ("train",) * 5 + ("val",) * 2 + ("test",) * 3


def load_digits_dataset() -> Dataset:
    """Items have paths "digit/POSITION", the position in scikit-learn's order."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 0 to 16 levels of ink, white on black
    pictures = (digits.images * (255 / 16)).round().astype(np.uint8)
    seen: Counter[int] = Counter()
    parts: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    for position, label in enumerate(digits.target.tolist()):
        parts[PARTS[seen[label] % 10]].append(Item(f"digit/{position:04d}", label, NAMES[label]))
        seen[label] += 1

    def open_image(item: Item) -> Image.Image:
        return Image.fromarray(pictures[int(item.path.removeprefix("digit/"))]).convert("RGB")

    train, val, test = (tuple(parts[part]) for part in ("train", "val", "test"))
    return Dataset("digits", NAMES, train, val, test, open_image)
