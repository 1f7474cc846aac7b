"""A frozen text tower whose matrices are stored in bfloat16 or int8 and converted to the pass's precision for each product.

int8 is symmetric with one scale per output channel: W = scale · q, q in −127 … 127, rounded to nearest. Scales have 16
significant bits, rounded up, so that scale · q is exact in float32: packing a tower of rounded values loses nothing, and
open_clip's own modules compute with the same weights as the engine. Biases, norms, embeddings and the read-out stay float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LARGEST = 127
SCALE_BITS = 16


@dataclass(frozen=True)
class PackedMatrix:
    """rows ∘ W ∘ columns: W (in, out) is `stored`; `rows` (in,) and `columns` (out,) have the precision of the pass."""

    stored: Tensor
    rows: Tensor
    columns: Tensor

    def to(self, dtype: torch.dtype, device: torch.device) -> PackedMatrix:
        """For passes in `dtype`; shares the stored values if they are on the device already."""
        return PackedMatrix(self.stored.to(device), self.rows.to(device, dtype), self.columns.to(device, dtype))

    @property
    def dense(self) -> Tensor:
        return self.stored.to(self.rows.dtype).mul_(self.columns).mul_(self.rows[:, None])


def pack(matrix: Tensor, kind: str, *, rows: Tensor, columns: Tensor) -> PackedMatrix:
    """A tower's matrix (out, in) of `kind` values, with factors rows (in,) and columns (out,) float64.

    The matrix must have been rounded to that kind (`rounded`).
    """
    if kind == "bfloat16":
        return PackedMatrix(matrix.T.to(torch.bfloat16).contiguous(), rows, columns)
    q, scale = quantize(matrix)
    return PackedMatrix(q.T.contiguous(), rows, columns * scale[:, 0].to(columns))


def quantize(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values (out, in) of a float32 matrix, and scales (out, 1)."""
    largest = matrix.abs().amax(1, keepdim=True)
    mantissa, exponent = torch.frexp(largest / LARGEST)
    scale = torch.ldexp(torch.ceil(mantissa * 2**SCALE_BITS) / 2**SCALE_BITS, exponent)
    scale = torch.where(largest == 0, torch.ones_like(scale), scale)
    return torch.round(matrix / scale).to(torch.int8), scale


def rounded(matrix: Tensor, kind: str) -> Tensor:
    """The matrix (out, in) float32 with each entry rounded to the nearest value that `kind` can store."""
    if kind == "bfloat16":
        return matrix.to(torch.bfloat16).to(matrix.dtype)
    q, scale = quantize(matrix)
    return q * scale


def with_rounded_matrices(model: nn.Module, kind: str) -> nn.Module:
    """The CLIP `model` with the matrices of its text blocks rounded to `kind`; all else is shared with `model`."""
    changed = _shallow(model)
    tower = changed
    if hasattr(model, "text"):
        tower = changed.text = _shallow(model.text)
    tower.transformer = copy.deepcopy(tower.transformer)
    with torch.no_grad():
        for matrix in matrices(tower.transformer):
            matrix.copy_(rounded(matrix, kind))
    return changed


def _shallow(module: Any) -> Any:
    """A copy that shares the submodules of `module`, and whose submodules can be replaced without changing `module`."""
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied


def matrices(transformer: nn.Module) -> Iterator[Tensor]:
    """The blocks' matrices (out, in): attention and MLP."""
    return (parameter for parameter in transformer.parameters() if parameter.ndim == 2)
