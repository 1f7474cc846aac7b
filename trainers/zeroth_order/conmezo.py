"""ConMeZO (AISTATS 2026, arXiv 2511.02757): two-point steps along directions in a cone around the momentum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.estimators import Normal
from trainers.blackbox.gradients import LossFunction, slopes_along_pairs
from trainers.optimizer import SinglePointOptimizer, gaussian
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class ConMeZO(SinglePointOptimizer):
    """w ← w − η c z, c = [L(w + μ z) − L(w − μ z)] / (2μ), z = √d cos θ · m/‖m‖ + sin θ · u, u ~ N(0, I); 2 queries.

    m ← β m + (1 − β) c z, and z = u while ‖m‖ is below 1e-8, as at the start. θ is the angle to the momentum: θ = π/2 is MeZO.
    Follows the official code for a deterministic test function. The official code for language models replaces ‖m‖ by its
    expected value and warms β up over 1,000 steps, which a vector with a few hundred entries does not require.

    >>> import torch
    >>> generator = torch.Generator().manual_seed(1)
    >>> normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    >>> optimizer = ConMeZO(torch.ones(3, dtype=torch.float64), lr=0.05, mu=1e-3, normal=normal)
    >>> bowl = lambda W, mu=None: W.square().sum(1)
    >>> for _ in range(200):
    ...     figures = optimizer.step(bowl)
    >>> optimizer.num_queries(1), figures["loss"] < 0.1
    (2, True)
    """

    def __init__(self, w0: Tensor, *, lr: float, mu: float, normal: Normal, theta: float = 1.35, beta: float = 0.95):
        super().__init__(w0, queries=2)
        self.lr, self.mu, self.normal, self.theta, self.beta = lr, mu, normal, theta, beta
        self.m = torch.zeros_like(w0)

    def direction(self) -> Tensor:
        """z (d,), of expected squared norm d."""
        u = self.normal(len(self.w))
        norm = self.m.norm()
        if norm < 1e-8:
            return u
        return math.sqrt(len(u)) * math.cos(self.theta) * self.m / norm + math.sin(self.theta) * u

    def step(self, objective: LossFunction) -> dict[str, float]:
        z = self.direction()
        slopes, loss = slopes_along_pairs(objective, self.w, self.mu, z[None])
        gradient = slopes[0] * z
        self.w = self.w - self.lr * gradient
        self.m = self.beta * self.m + (1 - self.beta) * gradient
        return {"loss": loss, "grad_norm": float(gradient.norm()), "momentum": float(self.m.norm())}


def build(config: Config, problem: Problem) -> ConMeZO:
    return ConMeZO(
        problem.initial,
        lr=config.zo_lr,
        mu=config.zo_eps_rge,
        normal=gaussian(config),
        theta=config.cone_angle,
        beta=config.beta1,
    )
