"""Formulas of gradient estimates (eq. 1 of the paper), and the loss function that they query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class LossFunction(Protocol):
    """The optimizer's view of the problem: losses at points, and derivatives if the model can be differentiated."""

    def __call__(self, W: Tensor, mu: float | None = None) -> Tensor:
        """Losses (B,) of the points W (B, d).

        `mu`: the finite-difference step that separates them, if any; ∞ if the losses are only ranked.
        """

    def gradient(self, w: Tensor, trained: Mapping[str, Tensor] | None = None, /) -> tuple[Tensor, Tensor]:
        """L(w) and ∇L(w) (d,) by backpropagation; one query.

        `trained`: all tensors, by name, that the caller updates in place from this gradient. A checkpoint then stores them
        instead of every gradient.
        """

    def jvp(self, w: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """L(w) and the slopes ∇L·v (m,) along the `tangents` (m, d) in forward mode; m queries."""


def cge(objective: LossFunction, w: Tensor, mu: float, chosen: Tensor | None = None) -> tuple[Tensor, float]:
    """Coordinate-wise estimate g_i = [L(w + μ e_i) − L(w − μ e_i)] / (2μ) for the `chosen` i (k,), else 0; 2k queries.

    `chosen` None: all d coordinates. Returns g (d,) and the mean of the losses, which is L(w) up to O(μ²).
    """
    steps = mu * _unit_vectors(w, chosen)
    losses = objective(torch.cat([w + steps, w - steps]), mu=mu)
    plus, minus = losses.chunk(2)
    return _spread((plus - minus) / (2 * mu), w, chosen), float(losses.mean())


def cge_one_sided(objective: LossFunction, w: Tensor, mu: float, chosen: Tensor | None = None) -> tuple[Tensor, float]:
    """As `cge` by forward differences, g_i = [L(w + μ e_i) − L(w)] / μ; k + 1 queries. Returns g (d,) and L(w)."""
    losses = objective(torch.cat([w[None], w + mu * _unit_vectors(w, chosen)]), mu=mu)
    return _spread((losses[1:] - losses[0]) / mu, w, chosen), float(losses[0])


def _unit_vectors(w: Tensor, chosen: Tensor | None) -> Tensor:
    identity = torch.eye(len(w), dtype=w.dtype)
    return identity if chosen is None else identity[chosen]


def _spread(values: Tensor, w: Tensor, chosen: Tensor | None) -> Tensor:
    return values if chosen is None else torch.zeros_like(w).index_put((chosen,), values)


def rge(objective: LossFunction, w: Tensor, mu: float, directions: Tensor) -> tuple[Tensor, float]:
    """Randomized estimate (1/q) Σ_j [L(w + μ u_j) − L(w − μ u_j)] / (2μ) · u_j; 2q queries.

    `directions` (q, d): u_j ~ N(0, I), masked or not. Returns g (d,) and the mean of the 2q losses.
    """
    slopes, mean_loss = slopes_along_pairs(objective, w, mu, directions)
    return (slopes[:, None] * directions).mean(0), mean_loss


def slopes_along_pairs(objective: LossFunction, w: Tensor, mu: float, directions: Tensor) -> tuple[Tensor, float]:
    """Slopes s_j = [L(w + μ u_j) − L(w − μ u_j)] / (2μ) (q,) along `directions` (q, d), and the mean of the 2q losses."""
    losses = objective(torch.cat([w + mu * directions, w - mu * directions]), mu=mu)
    plus, minus = losses.chunk(2)
    return (plus - minus) / (2 * mu), float(losses.mean())
