"""A linear probe: multinomial logistic regression (scikit-learn) on the cached features of the few-shot images.

The inverse regularization C is chosen from `STRENGTHS` on the validation images. w holds the weights (K, D) and biases (K,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from trainers.blackbox.problem import Problem
from trainers.blackbox.samples import SampleSet
from trainers.blackbox.task import FewShotTask
from trainers.references.feature_model import feature_problem, feature_scorer
from trainers.references.grid_search import GridSearch
from trainers.saved import Scorer
from utils.settings import Config

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)
MAX_ITERATIONS = 10_000


@dataclass(frozen=True)
class LinearClassifier:
    """logits = f · weightsᵀ + biases, with w = [weights (K, D) row by row, biases (K,)]."""

    classes: int
    width: int

    @property
    def d(self) -> int:
        return self.classes * (self.width + 1)

    def logits(self, w: Tensor, features: Tensor) -> Tensor:
        weights, biases = w.to(features.device).split([self.classes * self.width, self.classes])
        return features.double() @ weights.view(self.classes, self.width).T + biases

    def tensors(self) -> Mapping[str, Tensor]:
        return {"classes": torch.tensor(self.classes), "width": torch.tensor(self.width)}


def problem(config: Config, task: FewShotTask) -> Problem:
    """The weights and biases of a linear classifier; at zero, all classes have the same logit."""
    classifier = LinearClassifier(len(task.dataset.classnames), task.test_samples.inputs.shape[1])
    return feature_problem(config, task, classifier=classifier, d=classifier.d, candidates=len(STRENGTHS))


def build(config: Config, problem: Problem) -> GridSearch:
    fits: list[Callable[[], Tensor]] = [partial(fit, problem.train, strength) for strength in STRENGTHS]
    return GridSearch(problem.initial, candidates=fits, validate=problem.validate)


def fit(train: SampleSet, strength: float) -> Tensor:
    """Weights and biases (K·(D + 1),) by L-BFGS on all training features, with the penalty ‖weights‖² / (2 · `strength`)."""
    [batch] = train.split(len(train))
    labels = batch.labels.cpu().numpy()
    regression = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS).fit(batch.inputs.cpu().double().numpy(), labels)
    weights, biases = regression.coef_, regression.intercept_
    if len(weights) == 1:
        # for two classes, scikit-learn returns a single row: the logit of the second
        weights, biases = np.concatenate([0 * weights, weights]), np.concatenate([0 * biases, biases])
    return torch.from_numpy(np.concatenate([weights.ravel(), biases]))


def restore(config: Config, task: FewShotTask, tensors: Mapping[str, Tensor]) -> Scorer:
    """The saved weights and biases."""
    classifier = LinearClassifier(int(tensors["classes"]), int(tensors["width"]))
    return feature_scorer(config, task, classifier=classifier, w=tensors["w"])
