"""Random training views: the resized crop and flip of CoOp and of the released code, with a random stream per image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from datasets.split import Item
from utils.seeds import numpy_generator

RATIO = (3 / 4, 4 / 3)
ATTEMPTS = 10


@dataclass(frozen=True)
class RandomView:
    """View number `view` of an image under a seed: `size` (height, width) in pixels, `scale` the smallest share of the area.

    Each item has its own stream, so a view does not depend on the number of workers or on the other images.
    """

    seed: int
    view: int
    size: tuple[int, int]
    scale: float

    def __call__(self, image: Image.Image, item: Item) -> Image.Image:
        generator = numpy_generator(self.seed, f"view {self.view} of {item.path}")
        left, top, width, height = crop_box(image.width, image.height, self.scale, generator.uniform)
        view = image.crop((left, top, left + width, top + height))
        view = view.resize(self.size[::-1], Image.Resampling.BICUBIC)
        return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.uniform() < 0.5 else view


def crop_box(width: int, height: int, scale: float, uniform: Callable[[float, float], float]) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random crop: U(scale, 1) of the area, log-uniform sides' ratio of 3/4 to 4/3.

    As in torchvision's RandomResizedCrop: if ten draws do not fit into the picture, the largest allowed crop at its center.
    """
    for _ in range(ATTEMPTS):
        area = width * height * uniform(scale, 1.0)
        ratio = math.exp(uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return _position(uniform, width - w), _position(uniform, height - h), w, h
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    return (width - w) // 2, (height - h) // 2, w, h


def _position(uniform: Callable[[float, float], float], room: int) -> int:
    return min(int(uniform(0.0, room + 1.0)), room)
