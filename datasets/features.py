"""Image features: each image through the frozen image tower once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from datasets.split import Dataset, Item
from utils.files import is_terminal

DECODERS = 2


def image_features(
    dataset: Dataset,
    items: Sequence[Item],
    preprocess: Callable[[Image.Image], Tensor],
    encode: Callable[[Tensor], Tensor],
    batch_size: int,
    what: str,
) -> tuple[Tensor, Tensor]:
    """L2-normalised features (N, D) float32 and labels (N,) of `items`, on the device that `encode` gives them on.

    Images are decoded by two threads (Pillow releases the interpreter while it decodes) and only a batch at a time is held.
    """
    features = []
    with (
        ThreadPoolExecutor(DECODERS) as pool,
        tqdm(total=len(items), desc=what, unit="img", disable=not is_terminal()) as bar,
    ):
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            pictures = pool.map(lambda item: preprocess(dataset.open_image(item)), batch)
            features.append(encode(torch.stack(list(pictures))))
            bar.update(len(batch))
    stacked = torch.cat(features).clone()
    return stacked, torch.tensor([item.label for item in items], device=stacked.device)
