"""Plain gradient descent on w by backpropagation: not the method, but what it is measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from trainers.blackbox.gradients import Loss
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class GradientDescent:
    """w ← w − η ∇L(w); one query (a forward and a backward pass) a step."""

    stage = 1

    def __init__(self, w: Tensor, lr: float):
        self.w, self.lr = w.clone(), lr

    @property
    def solution(self) -> Tensor:
        return self.w

    def num_queries(self, steps: int) -> int:
        return steps

    def step(self, loss: Loss) -> dict[str, float]:
        """One update; `loss` must offer `gradient(w, moved)`. Returns loss (before the update) and grad_norm."""
        value, gradient = loss.gradient(self.w, {"w": self.w})
        self.w -= self.lr * gradient
        return {"loss": float(value), "grad_norm": float(gradient.norm())}


def build(config: Config, problem: Problem) -> GradientDescent:
    return GradientDescent(problem.initial, config.zo_lr)
