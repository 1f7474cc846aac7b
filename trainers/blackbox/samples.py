"""Samples in memory, sets of samples that are loaded batch by batch, and the accuracy on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Features (N, D), or images (N, 3, H, W), float32, with labels (N,) int64, on the model's device."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: Tensor) -> Samples:
        return Samples(self.inputs[which], self.labels[which])

    def split(self, size: int) -> Iterator[Samples]:
        for inputs, labels in zip(self.inputs.split(size), self.labels.split(size), strict=True):
            yield Samples(inputs, labels)


class Batch(Protocol):
    """Samples that are scored together. `inputs`: whatever the model's `logits` takes."""

    @property
    def inputs(self) -> Any: ...

    @property
    def labels(self) -> Tensor: ...

    def __len__(self) -> int: ...


class SampleSet(Protocol):
    """Samples that need not all be in memory at once: `split` loads them batch by batch."""

    def __len__(self) -> int: ...

    def split(self, size: int) -> Iterator[Batch]: ...


class BatchSource(Protocol):
    """Provides the samples for each call of an objective."""

    @property
    def encoded(self) -> int:
        """How many training images passed the image tower, unprompted, to make the samples so far."""

    def __call__(self) -> SampleSet: ...


class Classified(NamedTuple):
    """The predicted class and the label of each image, (n,) int64 on the CPU."""

    predicted: Tensor
    labels: Tensor

    @property
    def share_right(self) -> float:
        """Accuracy in [0, 1]."""
        return int((self.predicted == self.labels).sum()) / len(self.labels)


def classify(logits: Callable[[Any], Tensor], images: SampleSet, images_per_pass: int) -> Classified:
    """The classes of `images` with the highest score of `logits(inputs)` (n, K), and their labels."""
    parts = [(logits(part.inputs).argmax(1), part.labels) for part in images.split(images_per_pass)]
    return Classified(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def top1(logits: Callable[[Any], Tensor], images: SampleSet, images_per_pass: int) -> float:
    """Share of `images` whose highest score, of `logits(inputs)` (n, K), is that of their label."""
    return classify(logits, images, images_per_pass).share_right
