"""Stage 1: CMA-ES whose candidates are evaluated at a worst-case shift (eqs. 2, 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.estimators import GradientEstimator, refreshes
from trainers.blackbox.gradients import LossFunction


class SharpnessAwareCMAES:
    """CMA-ES that receives L(x_i + ε*) for its own points x_i, with ε* = ρ·∇L / ‖∇L‖₂ at the search mean.

    One step costs S queries, and those of `estimator` for ∇L when ε* is refreshed: every `every` steps, the first time at once.
    `estimator` None: ε* = 0, plain CMA-ES.

    >>> import torch
    >>> from trainers.blackbox.estimators import CGE
    >>> generator = torch.Generator().manual_seed(1)
    >>> normal = lambda n, d: torch.randn(n, d, generator=generator, dtype=torch.float64).numpy()
    >>> inner = CMAES(torch.zeros(3, dtype=torch.float64), sigma=0.3, popsize=8, normal=normal)
    >>> optimizer = SharpnessAwareCMAES(inner, rho=0.01, estimator=CGE(mu=1e-3))
    >>> bowl = lambda W, mu=None: (W - 1).square().sum(1)
    >>> for _ in range(40):
    ...     figures = optimizer.step(bowl)
    >>> optimizer.num_queries(1), bool((optimizer.solution - 1).norm() < 0.05)
    (14, True)
    """

    stage = 1

    def __init__(self, inner: CMAES, *, rho: float, estimator: GradientEstimator | None, every: int = 1):
        self.inner, self.rho, self.estimator, self.every = inner, rho, estimator, every
        self.gradient: Tensor | None = None
        self.steps = 0

    @property
    def solution(self) -> Tensor:
        return self.inner.mean

    def gradient_point(self) -> Tensor:
        """The point (d,) where ∇L is estimated."""
        return self.inner.mean

    def num_queries(self, steps: int) -> int:
        gradient = 0 if self.estimator is None else self.estimator.num_queries(self.inner.d)
        return steps * self.inner.popsize + refreshes(self.steps, steps, self.every) * gradient

    def step(self, objective: LossFunction) -> dict[str, float]:
        """One generation. Returns loss (mean of the candidates), best_loss (among them), sigma, and grad_norm of ∇L."""
        if self.steps % self.every == 0:
            self.epsilon = self.worst_case(objective)
        self.steps += 1
        candidates = self.inner.ask()
        # ranks are all that CMA-ES takes from these losses
        losses = objective(candidates + self.epsilon, mu=math.inf)
        self.inner.tell(candidates, losses)
        figures = {"loss": float(losses.mean()), "best_loss": float(losses.min()), "sigma": self.inner.sigma}
        if self.gradient is not None:
            figures["grad_norm"] = float(self.gradient.norm())
        return figures

    def worst_case(self, objective: LossFunction) -> Tensor:
        """ε* (d,) of eq. 2; zero if the gradient is exactly zero."""
        point = self.gradient_point()
        if self.estimator is None:
            return torch.zeros_like(point)
        self.gradient = self.estimator(objective, point).gradient
        norm = self.gradient.norm()
        return self.rho * self.gradient / norm if norm > 0 else torch.zeros_like(point)
