"""A few random images as a dataset, and the task of a run on them, for tests of methods that change the image side."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from clip.backbone import Backbone
from datasets.split import Dataset, Item
from tests.conftest import CLASSNAMES
from trainers.blackbox.samples import Samples
from trainers.blackbox.task import FewShotTask


def make_items(n: int, part: str) -> tuple[Item, ...]:
    return tuple(Item(f"{part}/{i}", i % len(CLASSNAMES), CLASSNAMES[i % len(CLASSNAMES)]) for i in range(n))


class Shelf:
    """Opens an item as 40 × 48 random pixels, different for each item; `opened` lists the items."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def __call__(self, item: Item) -> Image.Image:
        self.opened.append(item.path)
        noise = np.random.default_rng(sum(map(ord, item.path))).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        return Image.fromarray(noise)


def make_task(backbone: Backbone, train: int = 10, val: int = 3, test: int = 5) -> FewShotTask:
    parts = [make_items(n, part) for n, part in ((train, "train"), (val, "val"), (test, "test"))]
    dataset = Dataset("random", CLASSNAMES, *parts, Shelf())
    features = torch.zeros(test, backbone.model.visual.output_dim)
    empty = Samples(features[:0], torch.zeros(0))
    return FewShotTask(
        dataset, list(parts[0]), list(parts[1]), backbone, empty, empty, Samples(features, torch.zeros(test)), 0.0, []
    )


def images_of(task: FewShotTask, items: tuple[Item, ...] | list[Item]) -> tuple[torch.Tensor, torch.Tensor]:
    """Preprocessed images (n, 3, H, W) and labels (n,), by the backbone's own transform."""
    images = [task.backbone.preprocess(task.dataset.open_image(item)) for item in items]
    return torch.stack(images), torch.tensor([item.label for item in items])
