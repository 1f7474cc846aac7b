"""The input of every problem: the images of a run, the frozen CLIP and the image features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainers.blackbox.objective import Samples

if TYPE_CHECKING:
    from clip.backbone import Backbone
    from datasets.split import Dataset, Item


@dataclass(frozen=True)
class FewShotTask:
    """The drawn images, the frozen CLIP, and the features of all images that the run will score.

    `feature_seconds`: what those of the training images took, from the images or from the cache.
    """

    dataset: Dataset
    train: list[Item]
    val: list[Item]
    backbone: Backbone
    train_samples: Samples | None
    val_samples: Samples | None
    test_samples: Samples
    zero_shot_accuracy: float
    warnings: list[str]
    feature_seconds: float = 0.0
