"""Masks that select part of the coordinates, and an estimator restricted to them."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor

from trainers.blackbox.estimators import Estimate, GradientEstimator, refreshes
from trainers.blackbox.gradients import LossFunction


def num_dropped(d: int, ratio: float) -> int:
    """⌊ratio·d⌋, in decimal, since 0.29 · 100 is 28.999… in binary."""
    return math.floor(Fraction(str(ratio)) * d)


def prune_mask(score: Tensor, ratio: float) -> Tensor:
    """Ω (d,) of 0 and 1: drops the ⌊ratio·d⌋ lowest scores, the first coordinates among equal ones."""
    mask = torch.ones_like(score)
    mask[torch.argsort(score, stable=True)[: num_dropped(len(score), ratio)]] = 0.0
    return mask


class MaskRule(Protocol):
    """Chooses the coordinates to keep."""

    def num_queries(self, d: int) -> int:
        """Queries of one call."""

    def num_kept(self, d: int) -> int:
        """How many of `d` coordinates a mask keeps."""

    def __call__(self, objective: LossFunction, w: Tensor) -> Tensor:
        """The mask (d,) of 0 and 1 at w."""


class Dense:
    """Keeps every coordinate."""

    def num_queries(self, d: int) -> int:
        return 0

    def num_kept(self, d: int) -> int:
        return d

    def __call__(self, objective: LossFunction, w: Tensor) -> Tensor:
        return torch.ones_like(w)


class MagnitudePruning:
    """Drops the ⌊ratio·d⌋ smallest |w_i|, or the largest (`keep_small`); no queries."""

    def __init__(self, *, ratio: float, keep_small: bool = False):
        self.ratio, self.keep_small = ratio, keep_small

    def num_queries(self, d: int) -> int:
        return 0

    def num_kept(self, d: int) -> int:
        return d - num_dropped(d, self.ratio)

    def __call__(self, objective: LossFunction, w: Tensor) -> Tensor:
        return prune_mask(-w.abs() if self.keep_small else w.abs(), self.ratio)


class Masked:
    """`estimator` on the coordinates that `rule` keeps; the mask is refreshed every `interval` calls, first at once.

    Costs the estimator's queries on the kept coordinates, and the rule's at a refresh. Logs `kept`, the share of coordinates.
    """

    def __init__(self, estimator: GradientEstimator, *, rule: MaskRule, interval: int):
        self.estimator, self.rule, self.interval = estimator, rule, interval
        self.mask: Tensor | None = None
        self.calls = 0

    def num_queries(self, d: int, calls: int = 1) -> int:
        due = refreshes(self.calls, calls, self.interval)
        return self.estimator.num_queries(self.rule.num_kept(d), calls) + due * self.rule.num_queries(d)

    def refreshed(self, objective: LossFunction, w: Tensor) -> Tensor:
        """The mask of this call, refreshed at w if it is due."""
        if self.mask is None or self.calls % self.interval == 0:
            self.mask = self.rule(objective, w)
        self.calls += 1
        return self.mask

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        own = self.refreshed(objective, w)
        estimate = self.estimator(objective, w, own if mask is None else own * mask)
        return estimate._replace(figures={**estimate.figures, "kept": float(own.mean())})
