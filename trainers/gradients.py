"""Gradient estimates from forward passes alone (eq. 1 of the paper).

Here and in all optimisers, `loss` is any function from points W (B, d) and the step `mu` between them to B losses.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[..., Tensor]


def cge(loss: Loss, w: Tensor, mu: float) -> tuple[Tensor, float]:
    """Coordinate-wise estimate: g_i = [L(w + μ e_i) − L(w − μ e_i)] / (2μ); 2d queries.

    Returns g (d,) and the mean of the 2d losses, which is L(w) up to O(μ²).
    """
    steps = mu * torch.eye(len(w), dtype=w.dtype)
    losses = loss(torch.cat([w + steps, w - steps]), mu=mu)
    plus, minus = losses.chunk(2)
    return (plus - minus) / (2 * mu), float(losses.mean())


def rge(loss: Loss, w: Tensor, mu: float, directions: Tensor) -> tuple[Tensor, float]:
    """Randomised estimate: (1/q) Σ_j [L(w + μ u_j) − L(w − μ u_j)] / (2μ) · u_j; 2q queries.

    `directions` (q, d): u_j ~ N(0, I), masked or not. Returns g (d,) and the mean of the 2q losses.
    """
    losses = loss(torch.cat([w + mu * directions, w - mu * directions]), mu=mu)
    plus, minus = losses.chunk(2)
    slopes = (plus - minus) / (2 * mu)
    return (slopes[:, None] * directions).mean(0), float(losses.mean())
