"""Where the authors' released code departs from the paper (README, "Paper versus released code"): `--fidelity` selects these."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.estimators import RGE, GradientEstimator
from trainers.blackbox.gradients import LossFunction
from trainers.blackbox.masks import MaskRule, prune_mask
from trainers.sharpzo.algorithm import SharpZO
from trainers.sharpzo.stage1 import SharpnessAwareCMAES
from trainers.sharpzo.stage2 import SparseZO, ZPruning, standardize


class ReleasedCMAES(SharpnessAwareCMAES):
    """Stage 1 with the `departures` "matrix-radius", "fresh-mean-gradient" and "fresh-mean-start".

    "matrix-radius": ‖ε*‖ = ρ/√S. "fresh-mean-gradient": ∇L at the mean of a second population, drawn after each update
    (`first_mean` before the first). "fresh-mean-start": that mean is the solution.
    """

    def __init__(
        self,
        inner: CMAES,
        *,
        rho: float,
        estimator: GradientEstimator | None,
        every: int = 1,
        departures: Collection[str],
        first_mean: Tensor | None = None,
    ):
        rho = rho / math.sqrt(inner.popsize) if "matrix-radius" in departures else rho
        super().__init__(inner, rho=rho, estimator=estimator, every=every)
        self._gradient_at_fresh = "fresh-mean-gradient" in departures
        self._solution_is_fresh = "fresh-mean-start" in departures
        self._fresh_mean = inner.mean if first_mean is None else first_mean

    @property
    def solution(self) -> Tensor:
        return self._fresh_mean if self._solution_is_fresh else super().solution

    def gradient_point(self) -> Tensor:
        return self._fresh_mean if self._gradient_at_fresh else super().gradient_point()

    def step(self, objective: LossFunction) -> dict[str, float]:
        figures = super().step(objective)
        if self._gradient_at_fresh or self._solution_is_fresh:
            self._fresh_mean = self.inner.sample().mean(0)
        return figures


class ReleasedZPruning(ZPruning):
    """Z-pruning with the `departures` "abs-score" (w² ⊙ z(|g|)) and "keep-lowest" (keeps the lowest scores, drops the rest)."""

    def __init__(self, estimator: GradientEstimator, *, ratio: float, departures: Collection[str]):
        super().__init__(estimator, ratio=ratio)
        self.departures = departures

    def num_kept(self, d: int) -> int:
        kept = super().num_kept(d)
        return d - kept if "keep-lowest" in self.departures else kept

    def __call__(self, objective: LossFunction, w: Tensor) -> Tensor:
        self.gradient = self.estimator(objective, w).gradient
        x = self.gradient.abs() if "abs-score" in self.departures else self.gradient.square()
        mask = prune_mask(w.square() * standardize(x), self.ratio)
        return 1 - mask if "keep-lowest" in self.departures else mask


class ReleasedSparseZO(SparseZO):
    """Stage 2 with the `departures` "gradient-buffer" and "matrix-w".

    "gradient-buffer": ĝ is added to a `buffer` that only a mask refresh overwrites. "matrix-w": the buffer has `rows` equal
    rows, so that w becomes (rows, d) in the first step; the losses are those of its row mean.
    """

    def __init__(
        self,
        w0: Tensor,
        *,
        lr: float,
        estimator: RGE,
        pruning: MaskRule,
        interval: int = 200,
        departures: Collection[str],
        rows: int = 1,
    ):
        super().__init__(w0, lr=lr, estimator=estimator, pruning=pruning, interval=interval)
        self.lr, self.rge, self.rule, self.departures = lr, estimator, pruning, departures
        self.rows = rows if "matrix-w" in departures else 0
        self.set_buffer(torch.zeros_like(w0))

    def set_buffer(self, gradient: Tensor) -> None:
        """Starts the buffer from a gradient (d,)."""
        self.buffer = gradient.expand(self.rows, -1) if self.rows else gradient

    @property
    def solution(self) -> Tensor:
        return self.w.mean(0) if self.w.ndim == 2 else self.w

    def num_queries(self, steps: int) -> int:
        return self.masked.num_queries(self.w.shape[-1], steps)

    def step(self, objective: LossFunction) -> dict[str, float]:
        old = self.mask
        mask = self.masked.refreshed(objective, self.w)
        if mask is not old:
            self.buffer = mask * (self.rule.gradient if isinstance(self.rule, ReleasedZPruning) else self.buffer)
        gradient, loss = self._estimate(objective, mask)
        if "gradient-buffer" in self.departures:
            self.buffer = self.buffer + gradient
            gradient = self.buffer
        self.w = self.w - self.lr * gradient
        return {"loss": loss, "grad_norm": float(gradient.norm()), "kept": float(mask.mean())}

    def _estimate(self, objective: LossFunction, mask: Tensor) -> tuple[Tensor, float]:
        if self.w.ndim == 1:
            estimate = self.rge(objective, self.w, mask)
            return estimate.gradient, estimate.loss
        mu, q = self.rge.mu, self.rge.q
        v = mask * torch.cat([self.rge.normal(1, *self.w.shape) for _ in range(q)])
        losses = objective(torch.cat([self.w + mu * v, self.w - mu * v]).mean(1), mu=mu)
        plus, minus = losses.chunk(2)
        slopes = (plus - minus) / (2 * mu)
        return (slopes[:, None, None] * v).mean(0), float(losses.mean())


class ReleasedSharpZO(SharpZO):
    """Hands the last gradient of stage 1 to the buffer of stage 2."""

    def start_stage2(self) -> None:
        gradient = getattr(self.stage1, "gradient", None)
        super().start_stage2()
        if isinstance(self.stage2, ReleasedSparseZO) and gradient is not None:
            self.stage2.set_buffer(gradient)
