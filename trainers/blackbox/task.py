"""The input of every problem: the few-shot images of a run, the frozen CLIP and the image features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainers.blackbox.samples import Classified, Samples

if TYPE_CHECKING:
    from clip.backbone import Backbone
    from datasets.split import Dataset, Item


@dataclass(frozen=True)
class FewShotTask:
    """The drawn images, the frozen CLIP, and the features of all images that the run will score.

    A run that trains nothing has empty training and validation sets. `feature_seconds`: the time that the training features
    took, computed or read from the cache. `warnings`: lines for the user. `zero_shot_loss`: test cross-entropy
    of the template. `zero_shot`: the test images' classes by the template.
    """

    dataset: Dataset
    train: list[Item]
    val: list[Item]
    backbone: Backbone
    train_samples: Samples
    val_samples: Samples
    test_samples: Samples
    zero_shot_accuracy: float
    warnings: list[str]
    feature_seconds: float = 0.0
    zero_shot_loss: float = math.nan
    zero_shot: Classified | None = None
