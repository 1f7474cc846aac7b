"""Stage 2: zeroth-order SGD on the coordinates that Z-pruning keeps (eqs. 4, 5)."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from trainers.blackbox.gradients import Loss, cge, rge
from trainers.blackbox.masks import prune_mask


def z_pruning_score(w: Tensor, gradient: Tensor, absolute: bool = False) -> Tensor:
    """Eq. 5: w² ⊙ z(g²), z over the d coordinates; all zero where g² has no spread. `absolute`: z(|g|), as released."""
    x = gradient.abs() if absolute else gradient.square()
    # equal entries can have a tiny standard deviation by rounding
    spread = bool(x.max() > x.min())
    z = (x - x.mean()) / x.std(correction=0) if spread else torch.zeros_like(x)
    return w.square() * z


class SparseZO:
    """w ← w − η ĝ with ĝ the RGE along v = Ω ⊙ u, u ~ N(0, I); Ω is refreshed every `interval` steps, the first time at once.

    2q queries a step, and 2d more at a refresh by "zscore". `normal(shape)` draws u in float64. `pruning`: "zscore",
    "magnitude" (drops the smallest |w|; no queries) or "none" (dense).

    `departures`: the released code's choices. "gradient-buffer": ĝ is added to a buffer that only a refresh overwrites;
    `buffer` (d,) is what it starts from. With "matrix-w" the buffer has `rows` equal rows, so that w becomes (rows, d) in the
    first step, and the row mean is what is evaluated. "abs-score", "keep-lowest": see `z_pruning_score`, `prune_mask`.
    """

    stage = 2

    def __init__(
        self,
        w: Tensor,
        lr: float,
        mu: float,
        normal: Callable[[torch.Size], Tensor],
        q: int = 1,
        pruning: str = "zscore",
        ratio: float = 0.5,
        interval: int = 200,
        mask_mu: float = 1e-5,
        departures: Collection[str] = (),
        buffer: Tensor | None = None,
        rows: int = 1,
    ):
        self.w = w.clone()
        self.lr, self.mu, self.q, self.normal = lr, mu, q, normal
        self.pruning, self.ratio, self.interval, self.mask_mu = pruning, ratio, interval, mask_mu
        self.departures = departures
        self.buffer = torch.zeros_like(w) if buffer is None else buffer
        if "matrix-w" in departures:
            self.buffer = self.buffer.expand(rows, -1)
        self.mask = torch.ones_like(w)
        self.steps = 0

    @property
    def solution(self) -> Tensor:
        return self.w.mean(0) if self.w.ndim == 2 else self.w

    def num_queries(self, steps: int) -> int:
        refreshes = -(-(self.steps + steps) // self.interval) - -(-self.steps // self.interval)
        return 2 * self.q * steps + (2 * len(self.mask) * refreshes if self.pruning == "zscore" else 0)

    def step(self, loss: Loss) -> dict[str, float]:
        """One update. Returns what it learned: loss (mean of the ± pairs), grad_norm, kept (share of coordinates)."""
        if self.pruning != "none" and self.steps % self.interval == 0:
            self._refresh(loss)
        # v has the shape of w; where w is a matrix, the loss sees row means
        v = self.mask * torch.stack([self.normal(self.w.shape) for _ in range(self.q)])
        gradient, mean_loss = self._estimate_gradient(loss, v)
        if "gradient-buffer" in self.departures:
            self.buffer = self.buffer + gradient
            gradient = self.buffer
        self.w = self.w - self.lr * gradient
        self.steps += 1
        return {"loss": mean_loss, "grad_norm": float(gradient.norm()), "kept": float(self.mask.mean())}

    def _estimate_gradient(self, loss: Loss, v: Tensor) -> tuple[Tensor, float]:
        if self.w.ndim == 1:
            return rge(loss, self.w, self.mu, v)
        losses = loss(torch.cat([self.w + self.mu * v, self.w - self.mu * v]).mean(1), mu=self.mu)
        plus, minus = losses.chunk(2)
        slopes = (plus - minus) / (2 * self.mu)
        return (slopes[:, None, None] * v).mean(0), float(losses.mean())

    def _refresh(self, loss: Loss) -> None:
        if self.pruning == "magnitude":
            self.mask = prune_mask(self.w.abs(), self.ratio)
            self.buffer = self.mask * self.buffer
            return
        gradient, _ = cge(loss, self.w, self.mask_mu)
        score = z_pruning_score(self.w, gradient, absolute="abs-score" in self.departures)
        self.mask = prune_mask(score, self.ratio, keep_lowest="keep-lowest" in self.departures)
        self.buffer = self.mask * gradient
