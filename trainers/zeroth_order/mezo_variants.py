"""Four rules of the ZO-LLM benchmark (Zhang et al. 2024, Revisiting Zeroth-Order Optimization), all on MeZO's estimate ĝ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.gradients import Loss
from trainers.optimizer import Normal, gaussian
from trainers.zeroth_order.mezo import MeZO
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class ZOSign(MeZO):
    """w ← w − η sign(ĝ), coordinate by coordinate (ZO-signSGD, Liu et al. 2019); 2q queries.

    `of_slope`: the benchmark's own code takes the sign of the slope instead, w ← w − (η/q) Σ_j sign(s_j) u_j.
    """

    def __init__(self, w0: Tensor, lr: float, mu: float, normal: Normal, q: int = 1, of_slope: bool = False):
        super().__init__(w0, lr, mu, normal, q)
        self.of_slope = of_slope

    def direction(self, gradient: Tensor, slopes: Tensor, u: Tensor) -> Tensor:
        return (slopes.sign()[:, None] * u).mean(0) if self.of_slope else gradient.sign()


class ZOMomentum(MeZO):
    """m ← β₁ m + (1 − β₁) ĝ, m = 0 at first; w ← w − η m; 2q queries."""

    def __init__(self, w0: Tensor, lr: float, mu: float, normal: Normal, q: int = 1, beta1: float = 0.9):
        super().__init__(w0, lr, mu, normal, q)
        self.beta1 = beta1
        self.m = torch.zeros_like(w0)

    def direction(self, gradient: Tensor, slopes: Tensor, u: Tensor) -> Tensor:
        self.m = self.beta1 * self.m + (1 - self.beta1) * gradient
        return self.m


class ZOAdam(ZOMomentum):
    """v ← β₂ v + (1 − β₂) ĝ²; w ← w − η m̂ / (√v̂ + ε), m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ); 2q queries."""

    def __init__(
        self,
        w0: Tensor,
        lr: float,
        mu: float,
        normal: Normal,
        q: int = 1,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ):
        super().__init__(w0, lr, mu, normal, q, beta1)
        self.beta2, self.epsilon = beta2, epsilon
        self.v = torch.zeros_like(w0)
        self.t = 0

    def direction(self, gradient: Tensor, slopes: Tensor, u: Tensor) -> Tensor:
        self.t += 1
        m = super().direction(gradient, slopes, u) / (1 - self.beta1**self.t)
        self.v = self.beta2 * self.v + (1 - self.beta2) * gradient.square()
        return m / ((self.v / (1 - self.beta2**self.t)).sqrt() + self.epsilon)


class ZOConservative(MeZO):
    """w ← the best of w, w − η ĝ and w + η ĝ, w where none is better; 2q + 3 queries."""

    def __init__(self, w0: Tensor, lr: float, mu: float, normal: Normal, q: int = 1):
        super().__init__(w0, lr, mu, normal, q)
        self.queries += 3

    def step(self, loss: Loss) -> dict[str, float]:
        gradient, direction, _ = self.probe(loss)
        candidates = torch.stack([self.w, self.w - self.lr * direction, self.w + self.lr * direction])
        losses = loss(candidates)
        best = int(losses.argmin())
        self.w = candidates[best]
        return {"loss": float(losses[best]), "grad_norm": float(gradient.norm()), "moved": float(best > 0)}


def build_sign(config: Config, problem: Problem) -> ZOSign:
    of_slope = config.sign_of == "slope"
    return ZOSign(problem.initial, config.zo_lr, config.zo_eps_rge, gaussian(config), config.num_pertub, of_slope)


def build_momentum(config: Config, problem: Problem) -> ZOMomentum:
    return ZOMomentum(problem.initial, config.zo_lr, config.zo_eps_rge, gaussian(config), config.num_pertub, config.beta1)


def build_adam(config: Config, problem: Problem) -> ZOAdam:
    normal = gaussian(config)
    return ZOAdam(
        problem.initial, config.zo_lr, config.zo_eps_rge, normal, config.num_pertub, config.beta1, config.beta2, config.adam_eps
    )


def build_conservative(config: Config, problem: Problem) -> ZOConservative:
    return ZOConservative(problem.initial, config.zo_lr, config.zo_eps_rge, gaussian(config), config.num_pertub)
