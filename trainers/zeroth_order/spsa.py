"""SPSA as ZIP and BlackVIP use it: decaying steps, several two-sided estimates averaged, clipping or momentum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.gradients import Loss
from utils.seeds import torch_generator
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


def segmented_uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Perturbations Δ, float64: of random sign, uniform in [0.5, 1] in size, so that 1/Δ is bounded."""
    size = 0.5 + 0.5 * torch.rand(shape, generator=generator, dtype=torch.float64)
    sign = 1 - 2 * torch.randint(2, shape, generator=generator, dtype=torch.float64)
    return sign * size


class SPSA:
    """w ← w − a_k ĝ with ĝ the mean over q draws of [L(w + c_k Δ) − L(w − c_k Δ)] / (2 c_k Δ), element by element; 2q queries.

    c_k = c / k^γ and a_k = a / (k + o)^α for k = 1, 2, … (Spall 1992). `clip`: ZIP's intrinsic-dimensional clipping, ‖ĝ‖ at most
    √d. `momentum` β: BlackVIP's SPSA-GC, m ← β m + ĝ (m = ĝ at first) and w ← w − a_k (ĝ + β m). `perturb(q)` gives Δ (q, d).
    """

    stage = 1

    def __init__(
        self,
        w0: Tensor,
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
        self.w, self.perturb, self.q = w0.clone(), perturb, q
        self.c, self.gamma, self.a, self.o, self.alpha = c, gamma, a, o, alpha
        self.momentum, self.clip = momentum, clip
        self.buffer: Tensor | None = None
        self.k = 0

    @property
    def solution(self) -> Tensor:
        return self.w

    def num_queries(self, steps: int) -> int:
        return 2 * self.q * steps

    def step(self, loss: Loss) -> dict[str, float]:
        """One update. Returns loss (mean of all 2q), grad_norm (before clipping) and clipped (0 or 1)."""
        self.k += 1
        c_k = self.c / self.k**self.gamma
        a_k = self.a / (self.k + self.o) ** self.alpha
        delta = self.perturb(self.q)
        losses = loss(torch.cat([self.w + c_k * delta, self.w - c_k * delta]), mu=c_k)
        plus, minus = losses.chunk(2)
        gradient = ((plus - minus)[:, None] / (2 * c_k * delta)).mean(0)
        norm, limit = float(gradient.norm()), math.sqrt(len(self.w))
        clipped = self.clip and norm >= limit
        if clipped:
            gradient = gradient * (limit / norm)
        self.w = self.w - a_k * self._with_momentum(gradient)
        return {"loss": float(losses.mean()), "grad_norm": norm, "clipped": float(clipped)}

    def _with_momentum(self, gradient: Tensor) -> Tensor:
        if not self.momentum:
            return gradient
        self.buffer = gradient if self.buffer is None else self.momentum * self.buffer + gradient
        return gradient + self.momentum * self.buffer


def build(config: Config, problem: Problem) -> SPSA:
    """SPSA with the settings' constants."""
    w0 = problem.initial
    generator = torch_generator(config.seed, "SPSA perturbations")
    return SPSA(
        w0,
        lambda q: segmented_uniform((q, len(w0)), generator),
        config.sp_avg,
        config.spsa_c,
        config.spsa_gamma,
        config.spsa_a,
        config.spsa_o,
        config.spsa_alpha,
        config.moms,
        config.zo_clip,
    )
