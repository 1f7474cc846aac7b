"""Sharpness-aware zeroth-order descent: ZOSA and tilted ZO-SAM (ZEST), each implemented from a summary of its paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.estimators import Estimate, Normal
from trainers.blackbox.gradients import LossFunction
from trainers.optimizer import Descent, gaussian
from trainers.zeroth_order.descent import update
from trainers.zeroth_order.population import one_sided, rademacher
from utils.seeds import torch_generator
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class ZOSA:
    """FZOO's estimate at w + ρ ĝ/‖ĝ‖, ĝ FZOO's estimate at w, both divided by the spread of the first; 2(m + 1) queries.

    Implemented from a summary of ZOSA (arXiv 2511.09156), which has no formula for the second estimate: here it has fresh
    directions and its own baseline. The summary shifts by ρ ĝ/s, with s the spread of the losses, a length that depends on μ and
    m; here the radius is ρ. With ρ = 0 both estimates are at w.

    >>> import torch
    >>> bowl = lambda W, mu=None: W.square().sum(1)
    >>> estimator = ZOSA(mu=1e-3, probes=8, rho=0.1, generator=torch.Generator().manual_seed(1))
    >>> estimate = estimator(bowl, torch.ones(4, dtype=torch.float64))
    >>> estimator.num_queries(d=4), float(estimate.gradient.sum()) > 0
    (18, True)
    """

    def __init__(self, *, mu: float, probes: int, rho: float, generator: torch.Generator):
        self.mu, self.probes, self.rho, self.generator = mu, probes, rho, generator

    def num_queries(self, d: int, calls: int = 1) -> int:
        return calls * 2 * (self.probes + 1)

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        u, v = (rademacher((self.probes, len(w)), self.generator) for _ in range(2))
        if mask is not None:
            u, v = mask * u, mask * v
        base, losses = one_sided(objective, w, self.mu, u)
        spread = losses.std()
        ascent = (losses - base) @ u
        length = ascent.norm()
        shifted = w + self.rho * ascent / length if length > 0 else w
        above, around = one_sided(objective, shifted, self.mu, v)
        if not spread > 0:
            return Estimate(torch.zeros_like(w), float(base), {"sharpness": float(above - base)})
        return Estimate((around - above) @ v / (spread * self.probes), float(base), {"sharpness": float(above - base)})


class TiltedSAM:
    """∇L_t with L_t(w) = (1/t) log E_v exp(t L(w + ρ v)), v ~ N(0, I): (1/(tρ)) Σ_i (p_i⁺ − p_i⁻) v_i; 2k queries.

    p is the softmax of t·L over the 2k points w ± ρ v_i. t → 0 gives the two-point average of RGE with μ = ρ, t → ∞ the worst
    point, as in SAM. Adding a constant to L changes nothing. Implemented from a summary of tilted ZO-SAM (arXiv 2510.16157),
    which leaves out the bias-corrected estimator; this is the one it calls naive.

    >>> import torch
    >>> generator = torch.Generator().manual_seed(1)
    >>> normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    >>> estimator = TiltedSAM(rho=0.1, tilt=1.0, pairs=4, normal=normal)
    >>> estimate = estimator(lambda W, mu=None: W.square().sum(1), torch.ones(4, dtype=torch.float64))
    >>> estimator.num_queries(d=4), float(estimate.gradient.sum()) > 0
    (8, True)
    """

    def __init__(self, *, rho: float, tilt: float, pairs: int, normal: Normal):
        self.rho, self.tilt, self.pairs, self.normal = rho, tilt, pairs, normal

    def num_queries(self, d: int, calls: int = 1) -> int:
        return calls * 2 * self.pairs

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        v = self.normal(self.pairs, len(w))
        if mask is not None:
            v = mask * v
        losses = objective(torch.cat([w + self.rho * v, w - self.rho * v]), mu=self.rho)
        plus, minus = (self.tilt * losses).softmax(0).chunk(2)
        return Estimate((plus - minus) @ v / (self.tilt * self.rho), float(losses.mean()))


def zosa(config: Config, problem: Problem) -> Descent:
    generator = torch_generator(config.seed, "Rademacher directions")
    estimator = ZOSA(mu=config.zo_eps_rge, probes=config.probes, rho=config.rho, generator=generator)
    return Descent(problem.initial, estimator=estimator, update=update(config))


def zest(config: Config, problem: Problem) -> Descent:
    estimator = TiltedSAM(rho=config.rho, tilt=config.tilt, pairs=config.probes, normal=gaussian(config))
    return Descent(problem.initial, estimator=estimator, update=update(config))
