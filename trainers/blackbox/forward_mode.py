"""Slopes of a function along many directions in forward mode: exact, without a graph and without a finite-difference step."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def slopes_along(function: Callable[[Tensor], Tensor], w: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """function(w), a scalar, and ∇function·v (m,) for each row v of `tangents` (m, d).

    The directions are a batch of tangents over one primal pass: w itself goes through once. Only the mathematical backend of
    scaled-dot-product attention has a forward mode.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # torch compiles some of its own forward-mode formulas with a function that it deprecates
        warnings.simplefilter("ignore", FutureWarning)
        # torch documents out_dims of None, for outputs without the batch dimension, but does not annotate it
        along = torch.vmap(lambda v: torch.func.jvp(function, (w,), (v,)), out_dims=(None, 0))  # type: ignore[arg-type]
        results: tuple[Tensor, ...] = along(tangents.to(w))
    return results[0], results[1]
