"""SPSA as ZIP and BlackVIP use it: decaying steps, several two-sided estimates averaged, clipping or momentum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.estimators import Estimate
from trainers.blackbox.gradients import LossFunction
from trainers.optimizer import Descent
from trainers.updates import Update
from utils.seeds import torch_generator
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


def segmented_uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Perturbations Δ, float64, with random signs and sizes uniform in [0.5, 1], so that 1/Δ is bounded."""
    size = 0.5 + 0.5 * torch.rand(shape, generator=generator, dtype=torch.float64)
    sign = 1 - 2 * torch.randint(2, shape, generator=generator, dtype=torch.float64)
    return sign * size


class SPSAEstimate:
    """The mean over q draws of [L(w + c_k Δ) − L(w − c_k Δ)] / (2 c_k Δ), element by element; 2q queries.

    c_k = c / k^γ in the k-th call, k = 1, 2, …; `perturb(q)` gives Δ (q, d). `clip`: ZIP's intrinsic-dimensional clipping, ‖ĝ‖
    at most √d. Logs grad_norm (before clipping) and clipped (0 or 1).
    """

    def __init__(self, *, perturb: Callable[[int], Tensor], q: int, c: float, gamma: float, clip: bool):
        self.perturb, self.q, self.c, self.gamma, self.clip = perturb, q, c, gamma, clip
        self.k = 0

    def num_queries(self, d: int, calls: int = 1) -> int:
        return calls * 2 * self.q

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        self.k += 1
        c_k = self.c / self.k**self.gamma
        delta = self.perturb(self.q)
        moves = delta if mask is None else mask * delta
        losses = objective(torch.cat([w + c_k * moves, w - c_k * moves]), mu=c_k)
        plus, minus = losses.chunk(2)
        gradient = ((plus - minus)[:, None] / (2 * c_k * delta)).mean(0)
        if mask is not None:
            gradient = mask * gradient
        norm, limit = float(gradient.norm()), math.sqrt(len(w))
        clipped = self.clip and norm >= limit
        if clipped:
            gradient = gradient * (limit / norm)
        return Estimate(gradient, float(losses.mean()), {"grad_norm": norm, "clipped": float(clipped)})


class DecayingSteps(Update):
    """a_k g with a_k = a / (k + o)^α in the k-th step, k = 1, 2, … (Spall 1992).

    `momentum` β: BlackVIP's SPSA-GC, m ← β m + g (m = g at first), and the step is a_k (g + β m).
    """

    def __init__(self, *, a: float, o: float, alpha: float, momentum: float = 0.0):
        self.a, self.o, self.alpha, self.momentum = a, o, alpha, momentum

    def start(self, w: Tensor) -> None:
        self.k = 0
        self.m = torch.zeros_like(w)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {"m": self.m}

    def __call__(self, gradient: Tensor, w: Tensor) -> Tensor:
        self.k += 1
        a_k = self.a / (self.k + self.o) ** self.alpha
        if not self.momentum:
            return a_k * gradient
        self.m.copy_(self.momentum * self.m + gradient)
        return a_k * (gradient + self.momentum * self.m)


class SPSA(Descent):
    """w ← w − a_k ĝ with `SPSAEstimate` and `DecayingSteps`; the defaults are ZIP's; 2q queries.

    >>> import torch
    >>> generator = torch.Generator().manual_seed(1)
    >>> optimizer = SPSA(torch.ones(3, dtype=torch.float64), perturb=lambda q: segmented_uniform((q, 3), generator), a=0.5)
    >>> bowl = lambda W, mu=None: W.square().sum(1)
    >>> for _ in range(50):
    ...     figures = optimizer.step(bowl)
    >>> optimizer.num_queries(50), figures["loss"] < 0.1
    (500, True)
    """

    def __init__(
        self,
        w0: Tensor,
        *,
        perturb: Callable[[int], Tensor],
        q: int = 5,
        c: float = 0.01,
        gamma: float = 0.1,
        a: float = 0.01,
        o: float = 1.0,
        alpha: float = 0.4,
        momentum: float = 0.0,
        clip: bool = False,
    ):
        estimator = SPSAEstimate(perturb=perturb, q=q, c=c, gamma=gamma, clip=clip)
        super().__init__(w0, estimator=estimator, update=DecayingSteps(a=a, o=o, alpha=alpha, momentum=momentum))


def build(config: Config, problem: Problem) -> SPSA:
    """SPSA with the constants from the settings."""
    w0 = problem.initial
    generator = torch_generator(config.seed, "SPSA perturbations")
    return SPSA(
        w0,
        perturb=lambda q: segmented_uniform((q, len(w0)), generator),
        q=config.sp_avg,
        c=config.spsa_c,
        gamma=config.spsa_gamma,
        a=config.spsa_a,
        o=config.spsa_o,
        alpha=config.spsa_alpha,
        momentum=config.moms,
        clip=config.zo_clip,
    )
