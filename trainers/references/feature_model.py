"""A classifier of cached features, determined by a vector w, as the model of a problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from trainers.blackbox.batches import FullBatch
from trainers.blackbox.criteria import criterion
from trainers.blackbox.objective import Objective
from trainers.blackbox.problem import Problem
from trainers.blackbox.task import FewShotTask
from trainers.saved import IMAGES_PER_PASS, Scorer
from utils.errors import UserError
from utils.settings import Config


class Classifier(Protocol):
    """Logits of features under w, and the tensors needed besides w."""

    @property
    def classes(self) -> int: ...

    def logits(self, w: Tensor, features: Tensor) -> Tensor:
        """Logits (n, K) float64 of L2-normalized features (n, D) under w (d,)."""

    def tensors(self) -> Mapping[str, Tensor]: ...


class FeatureModel:
    """A `Classifier` as a `Model`: one point at a time, on the features of any number of images."""

    def __init__(self, classifier: Classifier):
        self.classifier = classifier

    def logits(self, W: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        return lambda features: torch.stack([self.classifier.logits(w, features.to(dtype)) for w in W])

    def points_per_pass(self) -> int:
        return 1

    def images_per_pass(self, points: int) -> int:
        return IMAGES_PER_PASS

    def tower_images(self, points: int, images: int) -> int:
        return 0

    def tensors(self, w: Tensor) -> dict[str, Tensor]:
        return {"w": w, **self.classifier.tensors()}


def feature_problem(config: Config, task: FewShotTask, *, classifier: Classifier, d: int, candidates: int) -> Problem:
    """Classification of the cached features; the initial w (d,) is zero. The training images are encoded once."""
    batches = FullBatch(task.train_samples, len(task.train_samples))
    return Problem(
        Objective(FeatureModel(classifier), batches, config.precision, config.batch_size, criterion(config)),
        torch.zeros(d, dtype=torch.float64),
        task.train_samples,
        task.val_samples,
        task.test_samples,
        steps=min(config.total_steps, candidates),
    )


def feature_scorer(config: Config, task: FewShotTask, *, classifier: Classifier, w: Tensor) -> Scorer:
    """A saved classifier on this dataset's test images. Raises UserError if the number of classes differs."""
    classes = len(task.dataset.classnames)
    if classifier.classes != classes:
        raise UserError(
            f"{config.load_prompt}: was trained on {classifier.classes} classes, but this dataset has {classes}; use it with the "
            "classes that it was trained on"
        )
    return Scorer(
        lambda features: classifier.logits(w, features),
        task.test_samples,
        IMAGES_PER_PASS,
        prepare=task.backbone.encode_images,
        text=None,
    )
