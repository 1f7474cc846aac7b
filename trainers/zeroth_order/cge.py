"""Descent along coordinate-wise differences, all or a random share of them (DeepZero, Chen et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.gradients import Loss, cge, cge_one_sided
from trainers.optimizer import SinglePointOptimizer
from utils.seeds import torch_generator
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class CGEDescent(SinglePointOptimizer):
    """w ← w − η ĝ, ĝ_i a difference quotient along e_i for the k coordinates of the step and 0 for the others.

    Central differences, [L(w + μ e_i) − L(w − μ e_i)] / (2μ): 2k queries; `one_sided`, [L(w + μ e_i) − L(w)] / μ: k + 1. With
    k < d the coordinates are those that `choose(k)` (k,) draws in each step.
    """

    def __init__(self, w0: Tensor, lr: float, mu: float, one_sided: bool, k: int, choose: Callable[[int], Tensor]):
        super().__init__(w0, k + 1 if one_sided else 2 * k)
        self.lr, self.mu, self.k, self.choose = lr, mu, k, choose
        self.differences = cge_one_sided if one_sided else cge

    def step(self, loss: Loss) -> dict[str, float]:
        chosen = self.choose(self.k) if self.k < len(self.w) else None
        gradient, mean_loss = self.differences(loss, self.w, self.mu, chosen)
        self.w = self.w - self.lr * gradient
        return {"loss": mean_loss, "grad_norm": float(gradient.norm())}


def build(config: Config, problem: Problem) -> CGEDescent:
    generator = torch_generator(config.seed, "CGE coordinates")
    # in decimal, as the mask's share; never none
    k = max(1, math.floor(Fraction(str(config.cge_share)) * len(problem.initial)))
    one_sided = config.cge_differences == "forward"
    return CGEDescent(
        problem.initial,
        config.zo_lr,
        config.zo_eps_cge,
        one_sided,
        k,
        lambda k: torch.randperm(len(problem.initial), generator=generator)[:k],
    )
