"""Guided evolution strategies (Maheswaranathan et al., arXiv 1806.10230), guided by their own past estimates."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.estimators import Estimate, Normal
from trainers.blackbox.gradients import LossFunction
from trainers.optimizer import Descent, gaussian
from trainers.zeroth_order.descent import update
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class GuidedES:
    """(d/(2 σ² P)) Σ_i e_i [L(w + e_i) − L(w − e_i)], e_i = σ (√(α/d) ξ + √((1 − α)/k) U ζ), ξ, ζ ~ N(0, I); 2P queries.

    U (d, k): an orthonormal basis of the last k estimates. The paper guides by surrogate gradients from elsewhere; guiding by
    the estimator's own past estimates is our adaptation. Until k estimates exist, and with α = 1, this is the plain antithetic
    estimate at scale σ/√d, which the factor d turns into an estimate of ∇L.

    >>> import torch
    >>> generator = torch.Generator().manual_seed(1)
    >>> normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    >>> estimator = GuidedES(sigma=0.1, pairs=2, guides=1, alpha=0.5, normal=normal)
    >>> bowl = lambda W, mu=None: W.square().sum(1)
    >>> estimate = estimator(bowl, torch.ones(4, dtype=torch.float64))
    >>> estimator.num_queries(d=4), float(estimate.gradient.sum()) > 0
    (4, True)
    """

    def __init__(self, *, sigma: float, pairs: int, guides: int, alpha: float, normal: Normal):
        self.sigma, self.pairs, self.alpha, self.normal = sigma, pairs, alpha, normal
        self.past: deque[Tensor] = deque(maxlen=guides)

    def num_queries(self, d: int, calls: int = 1) -> int:
        return calls * 2 * self.pairs

    def probes(self, d: int) -> Tensor:
        """The perturbations e (P, d)."""
        e = self.normal(self.pairs, d) / math.sqrt(d)
        if len(self.past) < (self.past.maxlen or 0) or self.alpha == 1:
            return self.sigma * e
        basis = torch.linalg.qr(torch.stack(list(self.past), dim=1)).Q
        guided = self.normal(self.pairs, basis.shape[1]) @ basis.T / math.sqrt(basis.shape[1])
        return self.sigma * (math.sqrt(self.alpha) * e + math.sqrt(1 - self.alpha) * guided)

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        e = self.probes(len(w))
        if mask is not None:
            e = mask * e
        losses = objective(torch.cat([w + e, w - e]), mu=self.sigma / math.sqrt(len(w)))
        plus, minus = losses.chunk(2)
        gradient = len(w) / (2 * self.sigma**2 * self.pairs) * (plus - minus) @ e
        if gradient.any():
            self.past.append(gradient)
        return Estimate(gradient, float(losses.mean()))


def build(config: Config, problem: Problem) -> Descent:
    estimator = GuidedES(
        sigma=config.guide_sigma,
        pairs=config.probes,
        guides=config.guides,
        alpha=config.guide_alpha,
        normal=gaussian(config),
    )
    return Descent(problem.initial, estimator=estimator, update=update(config))
