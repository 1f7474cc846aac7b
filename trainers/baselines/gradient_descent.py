"""Gradient descent on w by backpropagation: the reference that forward-only optimizers are measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from trainers.blackbox.estimators import Backpropagation
from trainers.optimizer import Descent
from trainers.updates import Update
from trainers.zeroth_order.descent import update
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


def descend_by_backpropagation(w0: Tensor, update: Update) -> Descent:
    """w ← w − update(∇L(w)); one query (a forward and a backward pass) per step."""
    estimator = Backpropagation()
    optimizer = Descent(w0, estimator=estimator, update=update)
    estimator.trained = optimizer.tensors
    return optimizer


def build(config: Config, problem: Problem) -> Descent:
    return descend_by_backpropagation(problem.initial, update(config))
