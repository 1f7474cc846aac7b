"""Estimators from a population of probes: FZOO, R-AdaZO, OpenAI-ES, and ZoAR, which reuses old probes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.estimators import Estimate, Normal
from trainers.blackbox.gradients import LossFunction
from trainers.optimizer import Descent, gaussian
from trainers.zeroth_order.descent import update
from utils.seeds import torch_generator
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


def rademacher(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Independent entries of −1 and +1, float64."""
    return 1 - 2 * torch.randint(2, shape, generator=generator, dtype=torch.float64)


def one_sided(objective: LossFunction, w: Tensor, mu: float, u: Tensor) -> tuple[Tensor, Tensor]:
    """L(w) as a scalar, and the losses (n,) at w + μ u_i for the rows of u (n, d); n + 1 queries in one batch."""
    losses = objective(torch.cat([w[None], w + mu * u]), mu=mu)
    return losses[0], losses[1:]


class FZOO:
    """(1/N) Σ_i [(l_i − l_0) / s] u_i, l_i = L(w + μ u_i), u_i of −1 and +1, s the standard deviation of the l_i; N + 1 queries.

    FZOO (arXiv 2506.09034). As in its official code, the estimate lacks the factor 1/μ, so the step length is about
    η √(1 + d/N) regardless of the slope; as in the paper, s divides by N − 1 (the code divides by N). The step is 0 if all
    losses are equal. Scaling L or adding a constant to it changes nothing.

    >>> import torch
    >>> generator = torch.Generator().manual_seed(1)
    >>> bowl = lambda W, mu=None: W.square().sum(1)
    >>> estimator = FZOO(mu=1e-3, probes=8, generator=generator)
    >>> estimate = estimator(bowl, torch.ones(4, dtype=torch.float64))
    >>> estimator.num_queries(d=4), float(estimate.gradient.sum()) > 0
    (9, True)
    """

    def __init__(self, *, mu: float, probes: int, generator: torch.Generator):
        self.mu, self.probes, self.generator = mu, probes, generator

    def num_queries(self, d: int, calls: int = 1) -> int:
        return calls * (self.probes + 1)

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        u = rademacher((self.probes, len(w)), self.generator)
        if mask is not None:
            u = mask * u
        base, losses = one_sided(objective, w, self.mu, u)
        spread = losses.std()
        if not spread > 0:
            return Estimate(torch.zeros_like(w), float(base), {"spread": 0.0})
        gradient = ((losses - base) / spread) @ u / self.probes
        return Estimate(gradient, float(base), {"spread": float(spread)})


class SphereDifferences:
    """(d/K) Σ_k [L(w + μ u_k) − L(w)] / μ · u_k, u_k uniform on the unit sphere; K + 1 queries.

    The estimate of R-AdaZO (arXiv 2502.01014) as in its paper; its code omits the factor d and queries L(w) anew for every k.
    """

    def __init__(self, *, mu: float, probes: int, normal: Normal):
        self.mu, self.probes, self.normal = mu, probes, normal

    def num_queries(self, d: int, calls: int = 1) -> int:
        return calls * (self.probes + 1)

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        u = self.normal(self.probes, len(w))
        if mask is not None:
            u = mask * u
        u = u / u.norm(dim=1, keepdim=True)
        d = len(w) if mask is None else int(mask.sum())
        base, losses = one_sided(objective, w, self.mu, u)
        return Estimate(d * ((losses - base) / self.mu) @ u / self.probes, float(base))


class RankedES:
    """(1/2n) Σ_i (r_i⁺ − r_i⁻) e_i over n antithetic pairs w ± σ e_i, e_i ~ N(0, I); 2n queries.

    r are the centered ranks of all 2n losses, from −0.5 for the lowest to 0.5 for the highest (OpenAI-ES, Salimans et al. 2017),
    so only comparisons matter. Equal losses are ranked in the order of their points.
    """

    def __init__(self, *, sigma: float, pairs: int, normal: Normal):
        self.sigma, self.pairs, self.normal = sigma, pairs, normal

    def num_queries(self, d: int, calls: int = 1) -> int:
        return calls * 2 * self.pairs

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        e = self.normal(self.pairs, len(w))
        if mask is not None:
            e = mask * e
        losses = objective(torch.cat([w + self.sigma * e, w - self.sigma * e]), mu=self.sigma)
        ranks = torch.empty_like(losses)
        ranks[torch.argsort(losses, stable=True)] = torch.linspace(-0.5, 0.5, len(losses), dtype=losses.dtype)
        plus, minus = ranks.chunk(2)
        return Estimate((plus - minus) @ e / (2 * self.pairs), float(losses.mean()))


class ZoAR:
    """(1/(μ|F|)) Σ_{(u, r) ∈ F} (r − mean r) u over the last (H + 1)·K probes, K of them new, r = L(w + μ u); K queries.

    ZoAR (arXiv 2506.14460). As in its official code, old probes are not re-centered on the current w, and the baseline is the
    mean of all losses in memory. With H = 0 this is an evolution strategy with a mean baseline.
    """

    def __init__(self, *, mu: float, probes: int, history: int, normal: Normal):
        self.mu, self.probes, self.normal = mu, probes, normal
        self.memory: deque[tuple[Tensor, Tensor]] = deque(maxlen=history + 1)

    def num_queries(self, d: int, calls: int = 1) -> int:
        return calls * self.probes

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        u = self.normal(self.probes, len(w))
        if mask is not None:
            u = mask * u
        losses = objective(w + self.mu * u, mu=self.mu)
        self.memory.append((u, losses))
        directions, values = (torch.cat(parts) for parts in zip(*self.memory, strict=True))
        gradient = (values - values.mean()) @ directions / (self.mu * len(values))
        return Estimate(gradient if mask is None else mask * gradient, float(losses.mean()))


def fzoo(config: Config, problem: Problem) -> Descent:
    generator = torch_generator(config.seed, "Rademacher directions")
    estimator = FZOO(mu=config.zo_eps_rge, probes=config.probes, generator=generator)
    return Descent(problem.initial, estimator=estimator, update=update(config))


def r_adazo(config: Config, problem: Problem) -> Descent:
    estimator = SphereDifferences(mu=config.zo_eps_rge, probes=config.probes, normal=gaussian(config))
    return Descent(problem.initial, estimator=estimator, update=update(config, "r-adazo"))


def openai_es(config: Config, problem: Problem) -> Descent:
    estimator = RankedES(sigma=config.sigma, pairs=config.probes, normal=gaussian(config))
    return Descent(problem.initial, estimator=estimator, update=update(config, "adam"))


def zoar(config: Config, problem: Problem) -> Descent:
    estimator = ZoAR(mu=config.zo_eps_rge, probes=config.probes, history=config.history, normal=gaussian(config))
    return Descent(problem.initial, estimator=estimator, update=update(config, "r-adazo"))
