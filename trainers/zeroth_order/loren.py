"""LOREN (AAAI 2026, arXiv 2511.07971): probes whose covariance damps one learned direction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.estimators import Normal
from trainers.blackbox.gradients import LossFunction
from trainers.optimizer import SinglePointOptimizer, gaussian
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class LOREN(SinglePointOptimizer):
    """M ← β M + g, w ← w − η M, g = 1/(μ(K − 1)) Σ_k (f_k − f̄) y_k, f_k = L(w + μ y_k); K queries, none at w itself.

    y_k = u_k − [(r + q)/(s q)] (a·u_k) a, u_k ~ N(0, I), s = ‖a‖², r = √ρ, q = √(ρ + s): covariance 1 off a and ρ/(ρ + s) along
    it. a descends the score-function gradient of the mean loss, (1/(K − 1)) Σ_k (f_k − f̄) ∇_a with step `direction_lr`.

    Departures from the official code: no factor μ² on a's step, which freezes a; no special branch for one-dimensional tensors,
    which adds the same number to every entry of a; a and the momentum change once per step, not once per probe. a starts with
    ‖a‖² = ρ, so the first probes are almost isotropic; the official a ~ N(0, I) switches off one random direction.

    >>> import torch
    >>> generator = torch.Generator().manual_seed(1)
    >>> normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    >>> optimizer = LOREN(torch.ones(4, dtype=torch.float64), lr=0.02, mu=1e-3, normal=normal)
    >>> bowl = lambda W, mu=None: W.square().sum(1)
    >>> for _ in range(200):
    ...     figures = optimizer.step(bowl)
    >>> optimizer.num_queries(1), figures["loss"] < 0.5
    (6, True)
    """

    def __init__(
        self,
        w0: Tensor,
        *,
        lr: float,
        mu: float,
        normal: Normal,
        probes: int = 6,
        damping: float = 0.1,
        direction_lr: float = 1e-3,
        beta: float = 0.9,
    ):
        """Raises ValueError for fewer than two `probes`, since the losses of one have no spread."""
        if probes < 2:
            raise ValueError(f"LOREN: probes is {probes}; use at least 2, since their losses are compared")
        super().__init__(w0, queries=probes)
        self.lr, self.mu, self.normal, self.probes = lr, mu, normal, probes
        self.damping, self.direction_lr, self.beta = damping, direction_lr, beta
        a = normal(len(w0))
        self.a = a * math.sqrt(damping) / a.norm()
        self.momentum = torch.zeros_like(w0)

    def step(self, objective: LossFunction) -> dict[str, float]:
        u = self.normal(self.probes, len(self.w))
        s = float(self.a.square().sum())
        r, q = math.sqrt(self.damping), math.sqrt(self.damping + s)
        along = u @ self.a
        factor = (r + q) / (s * q)
        y = u - factor * along[:, None] * self.a
        losses = objective(self.w + self.mu * y, mu=self.mu)
        advantage = (losses - losses.mean()) / (self.probes - 1)
        gradient = advantage @ y / self.mu
        scores = (along[:, None] * u - self.a - ((r + q) * (along.square() - s) / (s * q))[:, None] * self.a) / q
        self.a = self.a - self.direction_lr * advantage @ scores
        self.momentum = self.beta * self.momentum + gradient
        self.w = self.w - self.lr * self.momentum
        return {"loss": float(losses.mean()), "grad_norm": float(gradient.norm()), "damped": float(self.a.norm())}


def build(config: Config, problem: Problem) -> LOREN:
    return LOREN(
        problem.initial,
        lr=config.zo_lr,
        mu=config.zo_eps_rge,
        normal=gaussian(config),
        probes=max(2, config.probes),
        damping=config.loren_damping,
        direction_lr=config.loren_lr,
        beta=config.beta1,
    )
