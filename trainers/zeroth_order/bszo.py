"""BSZO (arXiv 2601.01452): one-sided slopes fused by a Kalman filter with an adaptive noise level."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.estimators import Estimate, Normal
from trainers.blackbox.gradients import LossFunction
from trainers.optimizer import Descent, gaussian
from trainers.zeroth_order.descent import update
from trainers.zeroth_order.population import one_sided
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class KalmanSlopes:
    """Σ_i m_i z_i, z_i ~ N(0, I), m the posterior mean of the k slopes y_i = [L(w + μ z_i) − L(w)] / μ; k + 1 queries.

    Prior m ~ N(0, σ_p² I), noise σ_e². Each slope is fused once, and the one with the largest posterior variance a second time:
    gain K = Σd / (dᵀΣd + σ_e²). Before each fusion, as in the paper's Algorithm 2, the noise adapts to the residual r by
    σ_e² ← (1 − α) σ_e² + α r²; it starts at σ_p and never falls below 0.1 σ_p. With α = 0 and one fusion per slope,
    m = γ y with γ = σ_p²/(σ_p² + σ_e²).

    Departure: the official code fixes σ_p² = d/10⁶, which shrinks larger slopes to almost nothing; here σ_p is the running root
    mean square of the slopes.

    >>> import torch
    >>> generator = torch.Generator().manual_seed(1)
    >>> normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    >>> estimator = KalmanSlopes(mu=1e-4, probes=2, alpha=0.1, normal=normal)
    >>> estimate = estimator(lambda W, mu=None: W.square().sum(1), torch.ones(4, dtype=torch.float64))
    >>> estimator.num_queries(d=4)
    3
    """

    def __init__(self, *, mu: float, probes: int, alpha: float, normal: Normal, extra: int = 1):
        self.mu, self.probes, self.alpha, self.normal, self.extra = mu, probes, alpha, normal, extra
        self.prior: float | None = None
        self.noise = 0.0

    def num_queries(self, d: int, calls: int = 1) -> int:
        return calls * (self.probes + 1)

    def fuse(self, slopes: Tensor) -> Tensor:
        """The posterior mean (k,) of the `slopes` (k,)."""
        mean_square = float(slopes.square().mean())
        if self.prior is None:
            self.prior = self.noise = mean_square
        self.prior = 0.9 * self.prior + 0.1 * mean_square
        if not self.prior > 0:
            return torch.zeros_like(slopes)
        mean = torch.zeros_like(slopes)
        variance = torch.full_like(slopes, self.prior)
        order = [*range(len(slopes)), *([None] * self.extra)]
        for axis in order:
            i = int(variance.argmax()) if axis is None else axis
            residual = float(slopes[i] - mean[i])
            # along a coordinate axis the covariance stays diagonal
            gain = float(variance[i]) / (float(variance[i]) + self.noise)
            self.noise = max((1 - self.alpha) * self.noise + self.alpha * residual**2, 0.01 * self.prior if self.alpha else 0.0)
            mean[i] += gain * residual
            variance[i] *= 1 - gain
        return mean

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        z = self.normal(self.probes, len(w))
        if mask is not None:
            z = mask * z
        base, losses = one_sided(objective, w, self.mu, z)
        return Estimate(self.fuse((losses - base) / self.mu) @ z, float(base))


def build(config: Config, problem: Problem) -> Descent:
    estimator = KalmanSlopes(mu=config.zo_eps_rge, probes=config.probes, alpha=config.bszo_alpha, normal=gaussian(config))
    return Descent(problem.initial, estimator=estimator, update=update(config))
