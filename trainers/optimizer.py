"""The interface of all optimizers, and the base of those that move a single point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from trainers.blackbox.estimators import GradientEstimator, Normal
from trainers.blackbox.gradients import LossFunction
from trainers.updates import Update
from utils.seeds import torch_generator
from utils.settings import Config


class Optimizer(Protocol):
    """Queries losses in `step`, and has a solution at any time."""

    @property
    def stage(self) -> int:
        """1, or 2 after SharpZO's change point."""

    @property
    def solution(self) -> Tensor:
        """The w (d,) that the optimizer would deploy now."""

    def num_queries(self, steps: int) -> int:
        """Queries of the next `steps` steps: exact for one step, an upper bound where the change point is automatic."""

    def step(self, objective: LossFunction) -> dict[str, float]:
        """One step; returns figures for the log, `loss` among them."""


class Movable(Optimizer, Protocol):
    """An optimizer that can start from any w, as `--stage2` requires."""

    def start_from(self, w: Tensor) -> None:
        """Continues from w (d,), before its first step."""


class SinglePointOptimizer:
    """Base of optimizers that move one point `w` (d,) at the same cost in every step; a subclass adds `step`."""

    stage = 1

    def __init__(self, w0: Tensor, *, queries: int):
        self.w = w0.clone()
        self.queries = queries

    @property
    def solution(self) -> Tensor:
        return self.w

    def start_from(self, w: Tensor) -> None:
        self.w = w.clone()

    def num_queries(self, steps: int) -> int:
        return self.queries * steps

    def step(self, objective: LossFunction) -> dict[str, float]:
        """Moves `w`; returns figures for the log, `loss` among them."""
        raise NotImplementedError


class Descent:
    """w ← w − update(ĝ), ĝ from any gradient estimator: MeZO is RGE with SGD, zo-adam is RGE with Adam, and so on.

    >>> import torch
    >>> from trainers.blackbox.estimators import CGE
    >>> from trainers.updates import Adam
    >>> bowl = lambda W, mu=None: (W - 1).square().sum(1)
    >>> optimizer = Descent(torch.zeros(3, dtype=torch.float64), estimator=CGE(mu=1e-3), update=Adam(lr=0.1))
    >>> for _ in range(100):
    ...     figures = optimizer.step(bowl)
    >>> optimizer.num_queries(100), figures["loss"] < 1e-2
    (600, True)
    """

    stage = 1

    def __init__(self, w0: Tensor, *, estimator: GradientEstimator, update: Update):
        self.w = w0.clone()
        self.estimator, self.update = estimator, update
        update.start(self.w)

    @property
    def solution(self) -> Tensor:
        return self.w.clone()

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """w and the update's state, by name; every step changes them in place."""
        return {"w": self.w, **self.update.tensors}

    def start_from(self, w: Tensor) -> None:
        self.w.copy_(w)

    def num_queries(self, steps: int) -> int:
        return self.estimator.num_queries(len(self.w), steps)

    def step(self, objective: LossFunction) -> dict[str, float]:
        """One update. Returns loss (as the estimator measures it), grad_norm, and the figures of estimator and update."""
        estimate = self.estimator(objective, self.w)
        self.w -= self.update(estimate.gradient, self.w)
        norm = float(estimate.gradient.norm())
        return {"loss": estimate.loss, "grad_norm": norm, **estimate.figures, **self.update.figures}


def gaussian(config: Config, stream: str = "RGE directions") -> Normal:
    """normal(*shape): standard normals in float64, from the run's random stream of this name."""
    generator = torch_generator(config.seed, stream)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
