"""Gradient estimators: objects that estimate the gradient of a loss function at a point, and declare their queries.

Every estimator can be restricted to the coordinates of a mask, and combines with every update (trainers/updates.py) in
`trainers.optimizer.Descent`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trainers.blackbox.gradients import LossFunction, cge, cge_one_sided, slopes_along_pairs
from utils.numbers import ceil_div

# normal(*shape): standard normals in float64 from a seeded generator
Normal = Callable[..., Tensor]


class Estimate(NamedTuple):
    """A gradient estimate (d,), the loss at or around the point, and further figures for the log."""

    gradient: Tensor
    loss: float
    figures: Mapping[str, float] = MappingProxyType({})


class GradientEstimator(Protocol):
    """Estimates ∇L at a point."""

    def num_queries(self, d: int, calls: int = 1) -> int:
        """Queries of the next `calls` calls on `d` coordinates (those that the mask keeps, if there is one)."""

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        """∇L at w (d,). Coordinates where the `mask` (d,) of 0 and 1 is 0 are not perturbed and have a gradient of 0."""


class RGE:
    """Randomized estimate (1/q) Σ_j s_j u_j, s_j = [L(w + μ u_j) − L(w − μ u_j)] / (2μ), u_j ~ N(0, I); 2q queries.

    `normal(q, d)` draws the directions. `sign_of_slope`: the estimate is (1/q) Σ_j sign(s_j) u_j, as in the ZO-LLM benchmark's
    code for ZO-signSGD.

    >>> import torch
    >>> bowl = lambda W, mu=None: 0.5 * W.square().sum(1)
    >>> estimator = RGE(mu=1e-3, normal=lambda *shape: torch.ones(shape, dtype=torch.float64))
    >>> estimate = estimator(bowl, torch.tensor([1.0, -3.0], dtype=torch.float64))
    >>> [round(entry, 6) for entry in estimate.gradient.tolist()], estimator.num_queries(d=2)
    ([-2.0, -2.0], 2)
    """

    def __init__(self, *, mu: float, normal: Normal, q: int = 1, sign_of_slope: bool = False):
        self.mu, self.normal, self.q, self.sign_of_slope = mu, normal, q, sign_of_slope

    def num_queries(self, d: int, calls: int = 1) -> int:
        return calls * 2 * self.q

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        u = self.normal(self.q, len(w))
        if mask is not None:
            u = mask * u
        slopes, loss = slopes_along_pairs(objective, w, self.mu, u)
        gradient = (slopes[:, None] * u).mean(0)
        if self.sign_of_slope:
            return Estimate((slopes.sign()[:, None] * u).mean(0), loss, {"grad_norm": float(gradient.norm())})
        return Estimate(gradient, loss)


class CGE:
    """Coordinate-wise differences: central, 2k queries, or `one_sided`, [L(w + μ e_i) − L(w)] / μ, k + 1 queries.

    k = d coordinates, or with `share` < 1 the ⌊share·d⌋ (at least 1) that `generator` draws in each call.

    >>> import torch
    >>> bowl = lambda W, mu=None: 0.5 * W.square().sum(1)
    >>> estimate = CGE(mu=1e-3)(bowl, torch.tensor([1.0, -3.0], dtype=torch.float64))
    >>> [round(entry, 6) for entry in estimate.gradient.tolist()], CGE(mu=1e-3).num_queries(d=2)
    ([1.0, -3.0], 4)
    """

    def __init__(
        self, *, mu: float, one_sided: bool = False, share: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        if share < 1 and generator is None:
            raise ValueError(f"CGE: share is {share}; pass a generator to draw the coordinates")
        self.mu, self.one_sided, self.share, self.generator = mu, one_sided, share, generator

    def _coordinates(self, d: int) -> int:
        # in decimal, since 0.29 · 100 is 28.999… in binary
        return max(1, math.floor(Fraction(str(self.share)) * d))

    def num_queries(self, d: int, calls: int = 1) -> int:
        k = self._coordinates(d)
        return calls * (k + 1 if self.one_sided else 2 * k)

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        chosen = None if mask is None else mask.nonzero().flatten()
        d = len(w) if chosen is None else len(chosen)
        k = self._coordinates(d)
        if k < d:
            drawn = torch.randperm(d, generator=self.generator)[:k]
            chosen = drawn if chosen is None else chosen[drawn]
        return Estimate(*(cge_one_sided if self.one_sided else cge)(objective, w, self.mu, chosen))


class ForwardMode:
    """The exact gradient in forward mode, one tangent per coordinate; d queries. Requires `objective.jvp`."""

    def num_queries(self, d: int, calls: int = 1) -> int:
        return calls * d

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        tangents = torch.eye(len(w), dtype=w.dtype)
        if mask is None:
            loss, slopes = objective.jvp(w, tangents)
            return Estimate(slopes, float(loss))
        kept = mask.nonzero().flatten()
        loss, slopes = objective.jvp(w, tangents[kept])
        return Estimate(torch.zeros_like(w).index_put((kept,), slopes), float(loss))


class ForwardGradient:
    """(1/q) Σ_j (∇L·v_j) v_j, v_j ~ N(0, I), with exact slopes in forward mode (Baydin et al. 2022); q queries.

    `normal(q, d)` draws the directions. Requires `objective.jvp`.
    """

    def __init__(self, *, normal: Normal, q: int = 1):
        self.normal, self.q = normal, q

    def num_queries(self, d: int, calls: int = 1) -> int:
        return calls * self.q

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        v = self.normal(self.q, len(w))
        if mask is not None:
            v = mask * v
        loss, slopes = objective.jvp(w, v)
        return Estimate((slopes[:, None] * v).mean(0), float(loss))


class Backpropagation:
    """The exact gradient by backpropagation, for comparison; one query. Requires `objective.gradient`.

    `trained`: all tensors, by name, that are updated in place from these gradients and from nothing else; a checkpoint then
    stores them instead of every gradient (see `LossFunction.gradient`).
    """

    def __init__(self) -> None:
        self.trained: Mapping[str, Tensor] | None = None

    def num_queries(self, d: int, calls: int = 1) -> int:
        return calls

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        loss, gradient = objective.gradient(w, self.trained)
        return Estimate(gradient if mask is None else mask * gradient, float(loss))


def refreshes(done: int, calls: int, interval: int) -> int:
    """How many of the next `calls` calls after `done` are multiples of `interval`, counting from 0."""
    return ceil_div(done + calls, interval) - ceil_div(done, interval)
