"""Pictures, for methods that change them: decoded part by part, with as many kept as memory allows, or newly augmented."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.transforms import Normalize
from torchvision.transforms.functional import pil_to_tensor

from trainers.blackbox.objective import Samples
from utils.parallel import parallel_map
from utils.settings import Config

if TYPE_CHECKING:
    from PIL import Image

    from datasets.split import Dataset, Item
    from trainers.blackbox.task import FewShotTask

# decoded pictures that are kept never take more than this part of the memory limit, for each of a run's three sets
SHARE_OF_PICTURES = 8


@dataclass(frozen=True)
class Preprocess:
    """The backbone's transform cut in two: to a picture of 8-bit pixels (3, H, W), and from there to what the tower takes."""

    transform: Callable[[Image.Image], Tensor]

    def pixels(self, image: Image.Image) -> Tensor:
        *geometry, _to_tensor, _normalize = self.transform.transforms
        for change in geometry:
            image = change(image)
        return pil_to_tensor(image)

    def normalize(self, pixels: Tensor) -> Tensor:
        """float32 of 8-bit pixels (n, 3, H, W), to the bit what the whole transform gives."""
        return self._normalize(pixels.float().div(255))

    @cached_property
    def _normalize(self) -> Normalize:
        return self.transform.transforms[-1]

    def valid_range(self) -> tuple[Tensor, Tensor]:
        """What black and white become: least and greatest value (3, 1, 1) of each channel, float64."""
        mean, std = (
            torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (self._normalize.mean, self._normalize.std)
        )
        return (0 - mean) / std, (1 - mean) / std


class Pictures:
    """Preprocessed pictures (n, 3, H, W) of `items`, an ImageSet.

    Threads decode them. The first, up to `memory` bytes of 8-bit pixels, are
    kept; the others are decoded again in each pass.
    """

    def __init__(self, dataset: Dataset, items: Sequence[Item], preprocess: Preprocess, device: torch.device, memory: int):
        self.dataset, self.items, self.preprocess, self.device, self.memory = dataset, items, preprocess, device, memory
        self.labels = torch.tensor([item.label for item in items], device=device)
        self.kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.items)

    def split(self, size: int) -> Iterator[Samples]:
        for which in torch.arange(len(self)).split(size):
            yield self[which]

    def __getitem__(self, which: Tensor) -> Samples:
        """The pictures at positions `which` (n,)."""
        positions = which.tolist()
        missing = [position for position in positions if position not in self.kept]
        pixels = dict(zip(missing, parallel_map(self._pixels, missing, len(missing)), strict=True))
        for position in missing:
            if (position + 1) * pixels[position].numel() <= self.memory:
                self.kept[position] = pixels[position]
        stacked = torch.stack([self.kept[p] if p in self.kept else pixels[p] for p in positions])
        return Samples(self.preprocess.normalize(stacked.to(self.device)), self.labels[which.to(self.device)])

    def _pixels(self, position: int) -> Tensor:
        return self.preprocess.pixels(self.dataset.open_image(self.items[position]))


def picture_sets(config: Config, task: FewShotTask) -> tuple[Pictures, Pictures, Pictures]:
    """The run's training, validation and test pictures, under CLIP's test transform."""
    preprocess, memory = Preprocess(task.backbone.preprocess), (config.memory_limit << 20) // SHARE_OF_PICTURES
    parts = task.train, task.val, task.dataset.test
    return tuple(Pictures(task.dataset, items, preprocess, task.backbone.device, memory) for items in parts)
