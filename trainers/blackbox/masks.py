"""Masks that keep part of the coordinates."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor


def prune_mask(score: Tensor, ratio: float, keep_lowest: bool = False) -> Tensor:
    """Ω (d,) of 0 and 1: drops the ⌊ratio·d⌋ lowest scores, the first coordinate of equal ones first.

    `keep_lowest`: keeps those and drops the rest, as the released code does.
    """
    # in decimal, since 0.29 · 100 is 28.999… in binary
    dropped = math.floor(Fraction(str(ratio)) * len(score))
    lowest = torch.argsort(score, stable=True)[:dropped]
    mask = torch.zeros_like(score) if keep_lowest else torch.ones_like(score)
    mask[lowest] = 1.0 if keep_lowest else 0.0
    return mask
