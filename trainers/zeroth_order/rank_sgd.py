"""ZO-RankSGD (Tang, Rybin and Chang 2023, Zeroth-Order Optimization Meets Human Feedback): only the ranks of losses are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.estimators import Normal
from trainers.blackbox.gradients import LossFunction
from trainers.optimizer import SinglePointOptimizer, gaussian
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class RankSGD(SinglePointOptimizer):
    """ĝ = (1/|E|) Σ_{(i,j) ∈ E} (u_j − u_i), E the pairs with L(w + μ u_i) < L(w + μ u_j), of m points u ~ N(0, I); then
    w ← the best of w and w − η γ^k ĝ, k = 0 … n − 2, w if none is better; m + n queries.

    Losses are only compared, so any oracle that ranks points will do: accuracy, labels, a human judge. Ties form no pair.

    >>> import torch
    >>> generator = torch.Generator().manual_seed(1)
    >>> normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    >>> optimizer = RankSGD(torch.ones(3, dtype=torch.float64), lr=0.5, mu=1e-3, normal=normal)
    >>> bowl = lambda W, mu=None: W.square().sum(1)
    >>> for _ in range(20):
    ...     figures = optimizer.step(bowl)
    >>> optimizer.num_queries(1), figures["loss"] < 0.1
    (21, True)
    """

    def __init__(self, w0: Tensor, *, lr: float, mu: float, normal: Normal, m: int = 16, n: int = 5, decay: float = 0.5):
        super().__init__(w0, queries=m + n)
        self.lr, self.mu, self.normal, self.m = lr, mu, normal, m
        # the first step length, 0, is w itself, which wins a tie
        self.lengths = lr * torch.cat([torch.zeros(1), decay ** torch.arange(n - 1)]).double()

    def step(self, objective: LossFunction) -> dict[str, float]:
        """Returns loss (of the new point), grad_norm, and length: the step length that won."""
        u = self.normal(self.m, len(self.w))
        gradient = self.rank_gradient(u, objective(self.w + self.mu * u, mu=self.mu))
        candidates = self.w - self.lengths[:, None] * gradient
        losses = objective(candidates)
        best = int(losses.argmin())
        self.w = candidates[best]
        return {"loss": float(losses[best]), "grad_norm": float(gradient.norm()), "length": float(self.lengths[best])}

    @staticmethod
    def rank_gradient(u: Tensor, losses: Tensor) -> Tensor:
        """ĝ (d,) of points u (m, d): each weighted by how often others beat it, minus how often it beats others."""
        beats = (losses[:, None] < losses).to(u)
        weights = beats.sum(0) - beats.sum(1)
        return weights @ u / beats.sum().clamp(min=1)


def build(config: Config, problem: Problem) -> RankSGD:
    return RankSGD(
        problem.initial,
        lr=config.zo_lr,
        mu=config.zo_eps_rge,
        normal=gaussian(config, "ranked points"),
        m=config.rank_points,
        n=config.line_search,
        decay=config.line_decay,
    )
