"""Image features: each image passes the frozen image tower once, and the features are cached on disk for the next run."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from datasets.cache import FeatureCache, cache_key
from datasets.split import Dataset, Item
from utils.errors import UserError
from utils.files import is_terminal
from utils.parallel import parallel_map

# the packages that decode, resize and encode an image: another version may give other bits
PACKAGES = ("torch", "torchvision", "open_clip_torch", "pillow")
# entries are written during a long pass, so that an interrupted one resumes near where it stopped
BATCHES_PER_ENTRY = 16

View = Callable[[Image.Image, Item], Image.Image]


class ImageTower(Protocol):
    """The part of a backbone that feature extraction uses."""

    @property
    def name(self) -> str: ...

    @property
    def preprocess(self) -> Callable[[Image.Image], Tensor]: ...

    @property
    def device(self) -> torch.device: ...

    def encode_images(self, images: Tensor) -> Tensor: ...

    def fingerprint(self) -> str: ...


def check_images(dataset: Dataset, items: Sequence[Item]) -> None:
    """Raises UserError naming the first of `items` whose file is missing or empty, and how many more there are."""
    if dataset.stamp is None:
        return
    first, wrong = "", 0
    for item in items:
        try:
            dataset.stamp(item)
        except UserError as error:
            first, wrong = first or str(error), wrong + 1
    if wrong:
        more = f"; and {wrong - 1} more of the {len(items)} images that the run reads" if wrong > 1 else ""
        raise UserError(f"{first}{more}")


@dataclass(frozen=True)
class FeatureReader:
    """Turns lists of items into features. `cache`: where they are stored, or None. `batch_size`: images per pass."""

    dataset: Dataset
    backbone: ImageTower
    batch_size: int
    cache: FeatureCache | None = None

    def __call__(self, items: Sequence[Item], what: str, view: View | None = None) -> tuple[Tensor, Tensor]:
        """L2-normalized features (N, D) float32 and labels (N,) of `items`, on the backbone's device.

        `view` changes each picture before the deterministic transform. `what` is the progress bar's text. A cached result
        is bit-identical to a computed one. Raises UserError naming the first image that cannot be read.
        """
        size = self.batch_size * BATCHES_PER_ENTRY
        with tqdm(total=len(items), desc=what, unit="img", disable=not is_terminal()) as bar:
            starts = range(0, len(items), size)
            features = [self._entry(items[start : start + size], view, bar.update) for start in starts]
        if self.cache:
            self.cache.digests.save()
        labels = torch.tensor([item.label for item in items], device=self.backbone.device)
        return torch.cat(features), labels

    def of_views(self, items: Sequence[Item], what: str, views: Sequence[View]) -> tuple[Tensor, Tensor]:
        """The same for each of `views`, one after the other: (views × N, D); without views, of the unchanged pictures."""
        passes = [self(items, f"{what}, view {number} of {len(views)}", view) for number, view in enumerate(views, start=1)]
        features, labels = zip(*passes or [self(items, what)], strict=True)
        return torch.cat(features), torch.cat(labels)

    def _entry(self, items: Sequence[Item], view: View | None, update: Callable[[int], Any]) -> Tensor:
        key = self._key(items, view)
        features = self.cache.read(key, len(items)) if self.cache and key else None
        if features is not None:
            update(len(items))
            return features.to(self.backbone.device)
        features = self._compute(items, view, update)
        # an image that changed in the meantime must not be cached under its former content
        if self.cache and key and self._key(items, view) == key:
            self.cache.write(key, features)
        return features

    def _key(self, items: Sequence[Item], view: View | None) -> str | None:
        if self.cache is None or self.dataset.stamp is None:
            return None
        about = self._environment | {"view": repr(view), "paths": [item.path for item in items] if view else None}
        return cache_key(about, [self._content(item, self.cache) for item in items])

    def _content(self, item: Item, cache: FeatureCache) -> str:
        """A text that changes with the picture: for files a digest of the bytes and how they are read, whatever the path."""
        if self.dataset.file is None:
            return self.dataset.stamp(item) if self.dataset.stamp else item.path
        return f"{cache.digests(self.dataset.file(item))}|{self.dataset.reading}"

    @cached_property
    def _environment(self) -> dict[str, Any]:
        """What the features' bits depend on besides: weights, transform, batch size and arithmetic."""
        device = self.backbone.device
        cuda = device.type == "cuda"
        return {
            "backbone": self.backbone.name,
            "weights": self.backbone.fingerprint(),
            "transform": re.sub(r" at 0x[0-9a-f]+", "", repr(self.backbone.preprocess)),
            "batch_size": self.batch_size,
            "device": torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        }

    def _compute(self, items: Sequence[Item], view: View | None, update: Callable[[int], Any]) -> Tensor:
        """Batches follow the list order, so their composition depends on nothing else."""

        def decode(item: Item) -> Tensor:
            picture = self.dataset.open_image(item)
            try:
                return self.backbone.preprocess(view(picture, item) if view else picture)
            except ValueError as error:
                raise UserError(f"{item.path}: cannot be scaled for {self.backbone.name}: {error}") from error

        features: list[Tensor] = []
        for batch in _decoded(items, decode, self.batch_size):
            encoded = self.backbone.encode_images(batch)
            finite = [bool(row) for row in torch.isfinite(encoded).all(1)]
            if not all(finite):
                item = items[sum(map(len, features)) + finite.index(False)]
                raise UserError(
                    f"--backbone: {self.backbone.name}: the image features of {item.path} are NaN or infinite, though the "
                    "weights are finite: the image tower overflows; use other weights"
                )
            features.append(encoded)
            update(len(batch))
        return torch.cat(features).clone()


def _decoded(items: Sequence[Item], decode: Callable[[Item], Tensor], batch_size: int) -> Iterator[Tensor]:
    """Batches of decoded images (n, 3, H, W), in order. While one is used the next is decoded; at most two are in memory.

    Threads suffice: Pillow releases the interpreter while it decodes and resizes.
    """
    images = parallel_map(decode, items, batch_size)
    for start in range(0, len(items), batch_size):
        size = min(batch_size, len(items) - start)
        first = next(images)
        batch = first.new_empty((size, *first.shape))
        batch[0] = first
        for position in range(1, size):
            batch[position] = next(images)
        yield batch
