"""Image sets for methods that prompt the images: decoded batch by batch, as many held in memory as the limit allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.transforms import Compose, Normalize
from torchvision.transforms.functional import pil_to_tensor

from trainers.blackbox.samples import Samples
from utils.parallel import parallel_map
from utils.settings import Config

if TYPE_CHECKING:
    from PIL import Image

    from datasets.split import Dataset, Item
    from trainers.blackbox.task import FewShotTask

# decoded images take at most this fraction of the memory limit, in each of a run's three sets
SHARE_OF_IMAGES = 8


@dataclass(frozen=True)
class Preprocess:
    """The backbone's transform in two parts: to 8-bit pixels (3, H, W), and from those to the tower's input."""

    transform: Compose

    def pixels(self, image: Image.Image) -> Tensor:
        *geometry, _to_tensor, _normalize = self.transform.transforms
        for change in geometry:
            image = change(image)
        return pil_to_tensor(image)

    def normalize(self, pixels: Tensor) -> Tensor:
        """float32 of 8-bit pixels (n, 3, H, W), bit-identical to the whole transform."""
        return self._normalize(pixels.float().div(255))

    @cached_property
    def _normalize(self) -> Normalize:
        return self.transform.transforms[-1]

    def valid_range(self) -> tuple[Tensor, Tensor]:
        """The normalized values of black and white pixels: minimum and maximum (3, 1, 1) of each channel, float64."""
        mean, std = (
            torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (self._normalize.mean, self._normalize.std)
        )
        return (0 - mean) / std, (1 - mean) / std


class ImageSet:
    """Preprocessed images (n, 3, H, W) of `items`, a SampleSet.

    Threads decode them. The first ones, up to `memory` bytes of 8-bit pixels, stay in memory; the others are decoded again in
    each pass.
    """

    def __init__(self, dataset: Dataset, *, items: Sequence[Item], preprocess: Preprocess, device: torch.device, memory: int):
        self.dataset, self.items, self.preprocess, self.device, self.memory = dataset, items, preprocess, device, memory
        self.labels = torch.tensor([item.label for item in items], device=device)
        self._decoded: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.items)

    def split(self, size: int) -> Iterator[Samples]:
        for which in torch.arange(len(self)).split(size):
            yield self[which]

    def __getitem__(self, which: Tensor) -> Samples:
        """The images at positions `which` (n,)."""
        positions = which.tolist()
        missing = [position for position in positions if position not in self._decoded]
        pixels = dict(zip(missing, parallel_map(self._pixels, missing, len(missing)), strict=True))
        for position in missing:
            if (position + 1) * pixels[position].numel() <= self.memory:
                self._decoded[position] = pixels[position]
        stacked = torch.stack([self._decoded[p] if p in self._decoded else pixels[p] for p in positions])
        return Samples(self.preprocess.normalize(stacked.to(self.device)), self.labels[which.to(self.device)])

    def _pixels(self, position: int) -> Tensor:
        return self.preprocess.pixels(self.dataset.open_image(self.items[position]))


def image_sets(config: Config, task: FewShotTask) -> tuple[ImageSet, ImageSet, ImageSet]:
    """The run's training, validation and test images under CLIP's test transform."""
    preprocess, memory = Preprocess(task.backbone.preprocess), (config.memory_limit << 20) // SHARE_OF_IMAGES

    def image_set(items: Sequence[Item]) -> ImageSet:
        return ImageSet(task.dataset, items=items, preprocess=preprocess, device=task.backbone.device, memory=memory)

    return image_set(task.train), image_set(task.val), image_set(task.dataset.test)
