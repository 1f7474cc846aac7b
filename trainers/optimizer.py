"""What every optimizer is, and what those with one moving point share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from trainers.blackbox.gradients import Loss
from utils.seeds import torch_generator
from utils.settings import Config

Normal = Callable[..., Tensor]


class Optimizer(Protocol):
    """What every optimizer here is: it asks for losses in `step`, and says what it would answer if stopped now."""

    stage: int

    @property
    def solution(self) -> Tensor:
        """The current best estimate w (d,)."""

    def num_queries(self, steps: int) -> int:
        """How many queries the next `steps` steps will ask; exact for one step, an upper bound where a rule decides later."""

    def step(self, loss: Loss) -> dict[str, float]:
        """One step; returns figures for the log."""


class SinglePointOptimizer:
    """A rule that moves the point `w` by `queries` queries a step: it adds `step`, and is a whole optimizer with that."""

    stage = 1

    def __init__(self, w0: Tensor, queries: int):
        self.w = w0.clone()
        self.queries = queries

    @property
    def solution(self) -> Tensor:
        return self.w

    def num_queries(self, steps: int) -> int:
        return self.queries * steps

    def step(self, loss: Loss) -> dict[str, float]:
        """Moves `w`; returns figures for the log, `loss` among them."""
        raise NotImplementedError


def gaussian(config: Config, stream: str = "RGE directions") -> Normal:
    """normal(*shape): standard normals in float64, from a stream of the run's own."""
    generator = torch_generator(config.seed, stream)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
