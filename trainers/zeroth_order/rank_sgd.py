"""ZO-RankSGD (Tang, Rybin and Chang 2023, Zeroth-Order Optimization Meets Human Feedback): only who beats whom is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.gradients import Loss
from trainers.optimizer import Normal, SinglePointOptimizer, gaussian
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class RankSGD(SinglePointOptimizer):
    """ĝ = (1/|E|) Σ_{(i,j) ∈ E} (u_j − u_i), E the pairs with L(w + μ u_i) < L(w + μ u_j), of m points u ~ N(0, I); then
    w ← the best of w and w − η γ^k ĝ, k = 0 … n − 2, w where none is better; m + n queries.

    Losses are only compared, so that any oracle that ranks will do: accuracy, labels, a person. Ties make no pair.
    """

    def __init__(self, w0: Tensor, lr: float, mu: float, normal: Normal, m: int = 16, n: int = 5, decay: float = 0.5):
        super().__init__(w0, m + n)
        self.lr, self.mu, self.normal, self.m = lr, mu, normal, m
        # the first step length, 0, is w itself, which wins a tie
        self.lengths = lr * torch.cat([torch.zeros(1), decay ** torch.arange(n - 1)]).double()

    def step(self, loss: Loss) -> dict[str, float]:
        """Returns loss (of the point that is kept), grad_norm, and step: the step length that won."""
        u = self.normal(self.m, len(self.w))
        gradient = self.rank_gradient(u, loss(self.w + self.mu * u, mu=self.mu))
        candidates = self.w - self.lengths[:, None] * gradient
        losses = loss(candidates)
        best = int(losses.argmin())
        self.w = candidates[best]
        return {"loss": float(losses[best]), "grad_norm": float(gradient.norm()), "length": float(self.lengths[best])}

    @staticmethod
    def rank_gradient(u: Tensor, losses: Tensor) -> Tensor:
        """ĝ (d,) of points u (m, d): each counts as often as others beat it, less the times that it beats others."""
        beats = (losses[:, None] < losses).to(u)
        weights = beats.sum(0) - beats.sum(1)
        return weights @ u / beats.sum().clamp(min=1)


def build(config: Config, problem: Problem) -> RankSGD:
    sizes = (config.rank_points, config.line_search, config.line_decay)
    return RankSGD(problem.initial, config.zo_lr, config.zo_eps_rge, gaussian(config, "ranked points"), *sizes)
