"""CurvZO (arXiv 2603.21725): two-point steps on coordinates sampled by a curvature score: an alternative to stage 2's mask."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.estimators import Normal
from trainers.blackbox.gradients import LossFunction, slopes_along_pairs
from trainers.optimizer import SinglePointOptimizer, gaussian
from utils.seeds import torch_generator
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem

LEAST_SHARE, LARGEST_SHARE = 0.1, 0.8
ADAPT_EVERY = 20


def inclusion_probabilities(scores: Tensor, expected: float) -> Tensor:
    """π_j = min(1, λ p_j), p = scores / Σ scores, with λ such that Σ π = `expected` (d,); λ by bisection on [0, 1 / max p].

    If one score dominates, λ stops at 1 / max p and the sum is below `expected`, as in the port that `CurvZO` follows.
    """
    p = scores.clamp(min=1e-12)
    p = p / p.sum()
    low, high = 0.0, 1 / float(p.max())
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if float((middle * p).clamp(max=1).sum()) < expected else (low, middle)
    return (high * p).clamp(min=1e-8, max=1)


class CurvZO(SinglePointOptimizer):
    """w_j ← w_j − η (c / π_j) z_j for the sampled j, c = [L(w + μ z) − L(w − μ z)] / (2μ), z ~ N(0, I) on them; 2 queries.

    Coordinate j is sampled with probability π_j (see `inclusion_probabilities`); dividing by π_j keeps the step unbiased. Its
    score follows s_j ← 0.9 s_j + 0.1 (|c| / G) (z_j² / π_j²) / Σ, G a running mean of |c|. Every 20 steps the expected number of
    coordinates moves toward the effective number of large scores, between 10% and 80% of d.

    Follows a third-party port, since the paper's formulas were not available to us. The port scores whole tensors; this class
    scores coordinates.

    >>> import torch
    >>> generator = torch.Generator().manual_seed(1)
    >>> normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    >>> optimizer = CurvZO(torch.ones(5, dtype=torch.float64), lr=0.02, mu=1e-3, normal=normal, generator=generator)
    >>> bowl = lambda W, mu=None: W.square().sum(1)
    >>> for _ in range(400):
    ...     figures = optimizer.step(bowl)
    >>> optimizer.num_queries(1), figures["loss"] < 0.5
    (2, True)
    """

    def __init__(
        self, w0: Tensor, *, lr: float, mu: float, normal: Normal, generator: torch.Generator, share: float = 0.4
    ) -> None:
        super().__init__(w0, queries=2)
        self.lr, self.mu, self.normal, self.generator, self.share = lr, mu, normal, generator, share
        self.scores = torch.full_like(w0, 0.01)
        self.scale = 1e-8
        self.steps = 0

    def sample(self) -> tuple[Tensor, Tensor]:
        """The sampled coordinates as a mask (d,) of 0 and 1, never all 0, and π (d,)."""
        d = len(self.w)
        pi = inclusion_probabilities(self.scores, max(1, math.floor(self.share * d)))
        mask = (torch.rand(d, generator=self.generator, dtype=torch.float64) < pi).to(pi)
        if not mask.any():
            mask[pi.argmax()] = 1.0
        return mask, pi

    def step(self, objective: LossFunction) -> dict[str, float]:
        """Returns loss, grad_norm (of the weighted step) and kept (share of the coordinates that were sampled)."""
        mask, pi = self.sample()
        z = mask * self.normal(len(self.w))
        slopes, loss = slopes_along_pairs(objective, self.w, self.mu, z[None])
        gradient = slopes[0] / pi * z
        self.w = self.w - self.lr * gradient
        self._score(abs(float(slopes[0])), z, pi, mask)
        self.steps += 1
        if self.steps % ADAPT_EVERY == 0:
            self._adapt_share()
        return {"loss": loss, "grad_norm": float(gradient.norm()), "kept": float(mask.mean())}

    def _score(self, slope: float, z: Tensor, pi: Tensor, mask: Tensor) -> None:
        self.scale = 0.9 * self.scale + 0.1 * slope
        weights = z.square() / pi.square()
        total = float(weights.sum())
        if total > 0:
            fresh = slope / (self.scale + 1e-12) * weights / total
            self.scores = torch.where(mask > 0, 0.9 * self.scores + 0.1 * fresh, self.scores)

    def _adapt_share(self) -> None:
        d = len(self.w)
        x = (self.scores / self.scores.mean()).clamp(min=1e-12)
        effective = float(x.sqrt().sum() ** 2 / x.sum()) / d
        p = x / x.sum()
        entropy = float(-(p * p.log()).sum()) / math.log(d) if d > 1 else 1.0
        target = 0.1 + 0.7 * (0.7 * effective + 0.3 * (1 - entropy))
        self.share = min(max(0.9 * self.share + 0.1 * target, LEAST_SHARE), LARGEST_SHARE)


def build(config: Config, problem: Problem) -> CurvZO:
    return CurvZO(
        problem.initial,
        lr=config.zo_lr,
        mu=config.zo_eps_rge,
        normal=gaussian(config),
        generator=torch_generator(config.seed, "sampled coordinates"),
        share=config.curvzo_share,
    )
