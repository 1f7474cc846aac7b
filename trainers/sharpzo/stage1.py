"""Stage 1: CMA-ES whose candidates are evaluated at a worst-case shift (eqs. 2, 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.gradients import Loss, cge, cge_one_sided, rge


class SharpnessAwareCMAES:
    """CMA-ES told L(x_i + ε*) for its own points x_i, with ε* = ρ·∇L / ‖∇L‖₂ at the search mean.

    One step costs S queries and those of ∇L: 2d by CGE ("zo"), d + 1 one-sided ("zo-forward"), 2q by RGE along q = `queries`
    directions that `normal(q, d)` draws ("rge"), d in forward mode ("jvp", which needs `loss.jvp`), 1 by backpropagation ("fo",
    which needs `loss.gradient`), 0 without ("none", naive CMA-ES). ε* is refreshed `every` so many steps, the first time at once.

    `departures`: the released code's choices. "fresh-mean-gradient": ∇L at the mean of a second population, drawn after each
    update (`first_mean` before the first). "fresh-mean-start": that mean is the estimate. "matrix-radius": ‖ε*‖ = ρ/√S.
    """

    stage = 1

    def __init__(
        self,
        inner: CMAES,
        rho: float,
        estimator: str,
        mu: float,
        departures: Collection[str] = (),
        first_mean: Tensor | None = None,
        every: int = 1,
        queries: int = 1,
        normal: Callable[[int, int], Tensor] | None = None,
    ):
        self.inner = inner
        self.every, self.queries, self.normal = every, queries, normal
        self.steps = 0
        self.rho = rho / math.sqrt(inner.popsize) if "matrix-radius" in departures else rho
        self.estimator = estimator
        self.mu = mu
        self.gradient: Tensor | None = None
        self._gradient_at_fresh = "fresh-mean-gradient" in departures
        self._estimate_is_fresh = "fresh-mean-start" in departures
        self._fresh_mean = first_mean if first_mean is not None else inner.mean

    @property
    def solution(self) -> Tensor:
        return self._fresh_mean if self._estimate_is_fresh else self.inner.mean

    def num_queries(self, steps: int) -> int:
        d = self.inner.d
        costs = {"zo": 2 * d, "zo-forward": d + 1, "rge": 2 * self.queries, "jvp": d, "fo": 1, "none": 0}
        refreshes = -(-(self.steps + steps) // self.every) - -(-self.steps // self.every)
        return steps * self.inner.popsize + refreshes * costs[self.estimator]

    def step(self, loss: Loss) -> dict[str, float]:
        """One generation. Returns what it learned: loss (mean of the candidates), best_loss, grad_norm, sigma."""
        if self.steps % self.every == 0:
            self.epsilon = self.worst_case(loss)
        self.steps += 1
        candidates = self.inner.ask()
        losses = loss(candidates + self.epsilon)
        self.inner.tell(candidates, losses)
        if self._gradient_at_fresh or self._estimate_is_fresh:
            self._fresh_mean = self.inner.ask().mean(0)
        record = {"loss": float(losses.mean()), "best_loss": float(losses.min()), "sigma": self.inner.sigma}
        if self.gradient is not None:
            record["grad_norm"] = float(self.gradient.norm())
        return record

    def worst_case(self, loss: Loss) -> Tensor:
        """ε* (d,) of eq. 2; zero where the gradient is exactly zero."""
        at = self._fresh_mean if self._gradient_at_fresh else self.inner.mean
        if self.estimator == "none":
            return torch.zeros_like(at)
        self.gradient = self._estimate_gradient(loss, at)
        norm = self.gradient.norm()
        return self.rho * self.gradient / norm if norm > 0 else torch.zeros_like(at)

    def _estimate_gradient(self, loss: Loss, at: Tensor) -> Tensor:
        """∇L (d,) at the point `at` (d,)."""
        if self.estimator == "fo":
            return loss.gradient(at)[1]
        if self.estimator == "jvp":
            return loss.jvp(at, torch.eye(len(at), dtype=at.dtype))[1]
        if self.estimator == "rge":
            return rge(loss, at, self.mu, self.normal(self.queries, len(at)))[0]
        return (cge_one_sided if self.estimator == "zo-forward" else cge)(loss, at, self.mu)[0]
