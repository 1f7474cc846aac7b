"""The samples of each call of an objective: all training images, or the next mini-batch of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datasets.augment import RandomView
from trainers.blackbox.samples import Batch, Samples, SampleSet
from utils.numbers import ceil_div
from utils.parallel import parallel_map
from utils.seeds import torch_generator
from utils.settings import Config

if TYPE_CHECKING:
    from datasets.split import Item
    from trainers.blackbox.task import FewShotTask

# smallest share of an image that a random crop keeps, in CoOp's pipeline, with which ZIP, BlackVIP and CoOp train
CROP_SCALE = 0.08

# training images at positions `which` (n,), for the mini-batch of this number, counted from 0
Load = Callable[[Tensor, int], SampleSet]


@dataclass(frozen=True)
class FullBatch:
    """Every call uses all samples. `encoded`: how many images passed the image tower to make them, once; 0 if they are images."""

    samples: SampleSet
    encoded: int
    batches_per_epoch: int = 1

    def __call__(self) -> SampleSet:
        return self.samples


@dataclass
class LazySamples:
    """`size` samples that are loaded on first use, so that a replayed query loads nothing."""

    size: int
    load: Callable[[], SampleSet]

    def __len__(self) -> int:
        return self.size

    @cached_property
    def loaded(self) -> SampleSet:
        return self.load()

    def split(self, size: int) -> Iterator[Batch]:
        return self.loaded.split(size)


def batches_per_epoch(n: int, size: int, drop_last: bool) -> int:
    """Mini-batches of `size` in a pass over n images; an incomplete one counts if it is the only one, or unless `drop_last`."""
    size = min(size, n)
    return n // size if drop_last else ceil_div(n, size)


class MiniBatches:
    """Each call gives the next `size` of n training images, in an order that is drawn anew for each epoch.

    `drop_last` omits the incomplete batch at an epoch's end, unless it is the only one. `encoded`: training images that passed
    the image tower so far, n of them once, or with `fresh` those of every batch.
    """

    def __init__(self, n: int, *, size: int, generator: torch.Generator, load: Load, fresh: bool, drop_last: bool = True):
        self.n, self.size, self.generator, self.load, self.fresh = n, min(size, n), generator, load, fresh
        self.batches_per_epoch = batches_per_epoch(n, size, drop_last)
        self.order = torch.empty(0, dtype=torch.long)
        self.number = 0
        self.encoded = 0 if fresh else n

    def __call__(self) -> LazySamples:
        index = self.number % self.batches_per_epoch
        if index == 0:
            self.order = torch.randperm(self.n, generator=self.generator)
        which = self.order[index * self.size : (index + 1) * self.size]
        samples = LazySamples(len(which), partial(self.load, which, self.number))
        self.number += 1
        self.encoded += len(samples) if self.fresh else 0
        return samples


def mini_batches(config: Config, task: FewShotTask, *, drop_last: bool = True, normalize: bool = True) -> MiniBatches:
    """Batches of `--train_batch` training images' features: the cached ones, or those of newly augmented images."""
    fresh = config.train_features == "fresh"
    generator = torch_generator(config.seed, "mini-batches")
    # not the task, which would keep the towers
    samples = task.train_samples
    load = _fresh_features(config, task, normalize) if fresh else lambda which, number: samples[which]
    n = len(task.train) if fresh else len(task.train_samples)
    return MiniBatches(n, size=config.train_batch, generator=generator, load=load, fresh=fresh, drop_last=drop_last)


def _fresh_features(config: Config, task: FewShotTask, normalize: bool) -> Load:
    """Features of random crops and flips, each image's from its own random stream, whichever thread decodes it."""
    backbone, open_image = task.backbone, task.dataset.open_image

    def load(which: Tensor, number: int) -> Samples:
        view = RandomView(config.seed, number, backbone.image_size, CROP_SCALE)
        items: Sequence[Item] = [task.train[position] for position in which.tolist()]
        images = list(parallel_map(lambda item: backbone.preprocess(view(open_image(item), item)), items, len(items)))
        features = backbone.encode_images(torch.stack(images), normalize).clone()
        return Samples(features, torch.tensor([item.label for item in items], device=features.device))

    return load
