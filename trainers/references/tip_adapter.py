"""Tip-Adapter (Zhang et al., ECCV 2022), training-free: a key-value cache of the few-shot features on top of zero-shot CLIP.

logits = scale · f Tᵀ + α · exp(−β (1 − f Fᵀ)) L, with image features f (n, D), the text features T (K, D) of the template, the
training features F (N, D) and their one-hot labels L (N, K); all features L2-normalized. w = (α, β) is searched on the
validation images over the grid `ALPHAS` × `BETAS`; the published code searches a finer grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.text import ensemble_features
from datasets import zero_shot_templates
from trainers.blackbox.problem import Problem
from trainers.blackbox.task import FewShotTask
from trainers.references.feature_model import feature_problem, feature_scorer
from trainers.references.grid_search import GridSearch, points
from trainers.saved import Scorer
from utils.settings import Config

ALPHAS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
BETAS = (1.0, 3.0, 5.5, 10.0, 30.0, 100.0)
GRID = tuple(itertools.product(ALPHAS, BETAS))


@dataclass(frozen=True)
class Cache:
    """Keys F (N, D) with integer labels (N,), and text features T (K, D), on one device."""

    keys: Tensor
    labels: Tensor
    text: Tensor
    logit_scale: float

    @property
    def classes(self) -> int:
        return len(self.text)

    def logits(self, w: Tensor, features: Tensor) -> Tensor:
        alpha, beta = w.tolist()
        affinity = (features @ self.keys.to(features).T).double()
        one_hot = F.one_hot(self.labels, self.classes).double()
        cached = torch.exp(-beta * (1 - affinity)) @ one_hot
        return self.logit_scale * (features @ self.text.to(features).T).double() + alpha * cached

    def tensors(self) -> Mapping[str, Tensor]:
        return {"keys": self.keys, "labels": self.labels, "text": self.text}


def problem(config: Config, task: FewShotTask) -> Problem:
    """w = (α, β) with the cache of all training features; at zero, the model is zero-shot CLIP."""
    templates = zero_shot_templates(config.dataset, config.template, config.ensemble)
    text, _ = ensemble_features(task.backbone, task.dataset.classnames, templates)
    train = task.train_samples
    cache = Cache(train.inputs, train.labels, text, task.backbone.logit_scale)
    return feature_problem(config, task, classifier=cache, d=2, candidates=len(GRID))


def build(config: Config, problem: Problem) -> GridSearch:
    return GridSearch(problem.initial, candidates=points(GRID), validate=problem.validate)


def restore(config: Config, task: FewShotTask, tensors: Mapping[str, Tensor]) -> Scorer:
    """The saved cache, α and β."""
    device = task.backbone.device
    keys, labels, text = (tensors[name].to(device) for name in ("keys", "labels", "text"))
    return feature_scorer(config, task, classifier=Cache(keys, labels, text, task.backbone.logit_scale), w=tensors["w"])
