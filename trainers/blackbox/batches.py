"""What one call of an objective is scored on: all training images, or the next mini-batch of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datasets.augment import RandomView
from trainers.blackbox.objective import Samples, SampleSet
from utils.parallel import parallel_map
from utils.seeds import torch_generator
from utils.settings import Config

if TYPE_CHECKING:
    from datasets.split import Item
    from trainers.blackbox.task import FewShotTask

# the smallest share of a picture that a random crop keeps, in CoOp's pipeline, which ZIP, BlackVIP and CoOp train with
CROP_SCALE = 0.08


@dataclass(frozen=True)
class FullBatch:
    """Every call sees all images. `encoded`: how many passed the image tower for it, once; none, where they are pictures."""

    images: SampleSet
    encoded: int
    batches_per_epoch: int = 1

    def __call__(self) -> SampleSet:
        return self.images


@dataclass
class LazySamples:
    """`size` images that are loaded when they are first asked for, which a batch whose answer is known never is."""

    size: int
    load: Callable[[], Samples]

    def __len__(self) -> int:
        return self.size

    @cached_property
    def images(self) -> Samples:
        return self.load()

    def split(self, size: int) -> Iterator[Samples]:
        return self.images.split(size)


class MiniBatches:
    """Each call sees the next `size` of n images, in an order that is drawn anew each epoch.

    `load(which, number)` gives the images at the positions `which` for batch `number` (from 0). The incomplete batch at an
    epoch's end is left out where `drop_last`, unless it is the only one. `encoded`: training images that passed
    the image tower so far; with `fresh`, those of every batch do.
    """

    def __init__(
        self,
        n: int,
        size: int,
        generator: torch.Generator,
        load: Callable[[Tensor, int], Samples],
        fresh: bool,
        drop_last: bool = True,
    ):
        self.n, self.size, self.generator, self.load, self.fresh = n, min(size, n), generator, load, fresh
        self.batches_per_epoch = n // self.size if drop_last else -(-n // self.size)
        self.order = torch.empty(0, dtype=torch.long)
        self.number = 0
        self.encoded = 0 if fresh else n

    def __call__(self) -> LazySamples:
        place = self.number % self.batches_per_epoch
        if place == 0:
            self.order = torch.randperm(self.n, generator=self.generator)
        which = self.order[place * self.size : (place + 1) * self.size]
        images = LazySamples(len(which), partial(self.load, which, self.number))
        self.number += 1
        self.encoded += len(images) if self.fresh else 0
        return images


def mini_batches(config: Config, task: FewShotTask, drop_last: bool = True, normalize: bool = True) -> MiniBatches:
    """Batches of `--train_batch` training images' features: cached ones, or of newly augmented pictures."""
    fresh = config.train_features == "fresh"
    load = _fresh_features(config, task, normalize) if fresh else (lambda which, number: task.train_samples[which])
    n = len(task.train) if fresh else len(task.train_samples)
    return MiniBatches(n, config.train_batch, torch_generator(config.seed, "mini-batches"), load, fresh, drop_last)


def _fresh_features(config: Config, task: FewShotTask, normalize: bool) -> Callable[[Tensor, int], Samples]:
    """Features of random crops and flips, each picture's from a stream of its own, whatever decodes it."""
    backbone, open_image = task.backbone, task.dataset.open_image

    def load(which: Tensor, number: int) -> Samples:
        view = RandomView(config.seed, number, backbone.image_size, CROP_SCALE)
        items: Sequence[Item] = [task.train[position] for position in which.tolist()]
        pictures = list(parallel_map(lambda item: backbone.preprocess(view(open_image(item), item)), items, len(items)))
        features = backbone.encode_images(torch.stack(pictures), normalize).clone()
        return Samples(features, torch.tensor([item.label for item in items], device=features.device))

    return load
