"""The text tower's pass at one context, which stores what each layer's derivative needs (clip/tangents.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.engine import Prepared
from clip.folded import activate
from clip.layers import Layer
from clip.tree import Attention


@dataclass(frozen=True)
class Stored:
    """Tensors that are stored together, in one precision."""

    def to(self, dtype: torch.dtype) -> Self:
        def cast(value: Stored | Tensor) -> Stored | Tensor:
            return value.to(dtype) if isinstance(value, Stored) else value.to(dtype).contiguous()

        return type(self)(**{field.name: cast(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True)
class Norm(Stored):
    """A layer norm: x − mean(x) (R, width) and 1/σ (R, 1)."""

    centered: Tensor
    inverse: Tensor

    @property
    def value(self) -> Tensor:
        return self.centered * self.inverse

    def to(self, dtype: torch.dtype) -> Norm:
        # 1/σ scales a whole row, and takes little memory
        return Norm(self.centered.to(dtype).contiguous(), self.inverse)


@dataclass(frozen=True)
class Heads(Stored):
    """Attention, for each of the G·H pairs of a group and a head, with S queries, T keys and heads of size s.

    `q` (GH, S, s), `k` and `v` (GH, T, s), the weights `P` = softmax(q·kᵀ + mask) (GH, S, T), `output` = P·v (GH, S, s).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    P: Tensor
    output: Tensor


@dataclass(frozen=True)
class Block(Stored):
    """One layer: its two norms, its attention, and the slope of its activation (rows, 4·width).

    In the last layer, everything except `norm1`, the keys and the values covers the EOS rows only.
    """

    norm1: Norm
    heads: Heads
    norm2: Norm
    slope: Tensor


@dataclass(frozen=True)
class Recorded:
    """What a pass stores. `features` (leaves, D), L2-normalized; `lengths` (leaves, 1): their norms before normalization."""

    blocks: tuple[Block, ...]
    norm: Norm
    features: Tensor
    lengths: Tensor


def record(prepared: Prepared, context: Tensor, dtype: torch.dtype) -> Recorded:
    """The pass at `context` (n_ctx, width), or (K, n_ctx, width) with one per class, in the precision of `prepared`.

    `dtype`: of the stored blocks.
    """
    tower, width = prepared.tower, prepared.width
    context_rows = (context + prepared.context_positions).view(-1, width)
    x = torch.cat([prepared.x0, context_rows])
    blocks = []
    for layer in tower.layers:
        last = layer is tower.layers[-1]
        norm1 = normalize(x, tower.eps)
        kv = norm1.value @ layer.qkv[:, width:]
        querying, x = (norm1.value[prepared.leaf_rows], x[prepared.leaf_rows]) if last else (norm1.value, x)
        q = querying @ layer.qkv[:, :width] + layer.b_q
        plan = prepared.leaves if last else prepared.rows
        heads = attend(q, kv, layer, plan, tower.heads)
        output = heads.output.view(plan.groups, tower.heads, -1, width // tower.heads).transpose(1, 2).reshape(-1, width)
        x = x + output[plan.slots] @ layer.out + layer.b_out
        norm2 = normalize(x, tower.eps)
        hidden = norm2.value @ layer.fc + layer.b_fc
        x = x + activate(hidden, tower.quick) @ layer.proj + layer.b_proj
        blocks.append(Block(norm1, heads, norm2, activation_slope(hidden, tower.quick)).to(dtype))
    norm = normalize(x, tower.eps)
    z = norm.value @ tower.readout + tower.b_readout
    return Recorded(tuple(blocks), norm, F.normalize(z, dim=-1), z.norm(dim=-1, keepdim=True))


def normalize(x: Tensor, eps: float) -> Norm:
    centered = x - x.mean(-1, keepdim=True)
    return Norm(centered, (centered.square().mean(-1, keepdim=True) + eps).rsqrt())


def attend(q: Tensor, kv: Tensor, layer: Layer, plan: Attention, heads: int) -> Heads:
    """Attention of the queries `q` (rows, width) that the plan selects over `kv` (R, 2·width) of all rows."""
    size = q.shape[1] // heads
    q = q[plan.queries].view(plan.groups, -1, heads, size).transpose(1, 2).flatten(0, 1)
    kv = kv[plan.keys].view(plan.groups, -1, 2, heads, size)
    kv[:, 0] = layer.sos.view(2, heads, size)
    k, v = kv.permute(2, 0, 3, 1, 4).flatten(1, 2)
    scores = q @ k.transpose(1, 2) + plan.mask.to(q.dtype).expand(-1, heads, -1, -1).flatten(0, 1)
    P = scores.softmax(-1)
    return Heads(q, k, v, P, P @ v)


def activation_slope(h: Tensor, quick: bool) -> Tensor:
    """The derivative of `clip.folded.activate`: of SiLU, or of the exact GELU."""
    if quick:
        s = torch.sigmoid(h)
        return s * (1 + h * (1 - s))
    return 0.5 * (1 + torch.erf(h / math.sqrt(2))) + h * torch.exp(-0.5 * h * h) / math.sqrt(2 * math.pi)
