"""The text tower's weights in the form that the engine multiplies by, folded as far as exactness allows, in float64.

Layer-norm gains and biases go into the next matrix, the attention scale into the queries, layer scale into the projections,
the value bias into the output bias (attention weights sum to one), and the key bias is dropped (the softmax cancels it).
QuickGELU, x·σ(1.702 x), is SiLU between matrices scaled by 1.702 and 1/1.702. A tower in fewer bits (clip/packed.py) keeps its
matrices packed, and folds them when it unpacks them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import LayerScale, QuickGELU, ResidualAttentionBlock, Transformer
from torch import Tensor, nn

from clip.layers import DenseLayer, Layer, PackedLayer
from clip.packed import PackedMatrix, pack
from clip.towers import TextTower, pooling

QUICK = 1.702


class Unsupported(Exception):
    """The engine does not support this text tower, for the reason in the message. The tower then takes the reference path."""


@dataclass(frozen=True)
class FoldedTower:
    """A tower in one precision.

    `positions` (L, width): positional embeddings. `readout` (width, D), `b_readout` (D,): projection after the last norm.
    """

    layers: Sequence[Layer]
    heads: int
    quick: bool
    eps: float
    positions: Tensor
    readout: Tensor
    b_readout: Tensor


class Foldable:
    """A tower that can be folded for passes of any precision.

    A float32 tower keeps its blocks and folds them in float64 anew for each precision, so that no float64 copy stays in memory.
    A tower in fewer bits keeps only its packed layers, which all precisions share.
    """

    def __init__(self, tower: TextTower, sos_token: int, kind: str = "float32"):
        """`kind`: what the tower's matrices were rounded to (`clip.packed`).

        Raises Unsupported, with the reason, if the tower does not consist of plain causal blocks.
        """
        self.blocks = _checked_blocks(tower)
        self.quick, self.eps = isinstance(self.blocks[0].mlp.gelu, QuickGELU), self.blocks[0].ln_1.eps
        self.depth, self.heads = len(self.blocks), self.blocks[0].attn.num_heads
        self.positions = tower.positional_embedding.detach().double().cpu()
        self.sos = tower.token_embedding.weight.detach()[sos_token].double().cpu() + self.positions[0]
        self.readout, self.b_readout = _readout(tower)
        self.packed: list[PackedLayer] = []
        if kind != "float32":
            x = self.sos
            for block in self.blocks:
                layer, x = _fold_block(block, self.quick, self.eps, x)
                self.packed.append(_pack_block(block, layer, self.quick, kind))
            self.blocks = []

    def to(self, dtype: torch.dtype, device: torch.device) -> FoldedTower:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype).contiguous()

        layers: list[Layer] = []
        if self.packed:
            # moved to the device once, for all precisions
            self.packed = [layer.to(torch.float64, device) for layer in self.packed]
            layers += [layer.to(dtype, device) for layer in self.packed]
        x = self.sos
        for block in self.blocks:
            layer, x = _fold_block(block, self.quick, self.eps, x)
            layers.append(layer.to(dtype, device))
        positions, readout, b_readout = map(move, (self.positions, self.readout, self.b_readout))
        return FoldedTower(tuple(layers), self.heads, self.quick, self.eps, positions, readout, b_readout)


def activate(h: Tensor, quick: bool, in_place: bool = False) -> Tensor:
    """The MLP's activation. `in_place` has an effect only on SiLU, since torch has no in-place GELU."""
    return F.silu(h, inplace=in_place) if quick else F.gelu(h)


def _checked_blocks(tower: TextTower) -> list[ResidualAttentionBlock]:
    transformer = tower.transformer
    if type(transformer) is not Transformer:
        raise Unsupported(f"its text transformer is a {type(transformer).__name__}")
    blocks = list(transformer.resblocks)
    for block in blocks:
        if type(block) is not ResidualAttentionBlock or type(block.attn) is not nn.MultiheadAttention:
            raise Unsupported(f"its text blocks are {type(block).__name__} with {type(block.attn).__name__}")
        norms = {type(block.ln_1).__name__, type(block.ln_2).__name__, type(tower.ln_final).__name__}
        if norms - {"LayerNorm", "LayerNormFp32"}:
            raise Unsupported(f"it normalizes with {', '.join(sorted(norms))}")
        if type(block.mlp.gelu) not in (nn.GELU, QuickGELU) or getattr(block.mlp.gelu, "approximate", "none") != "none":
            raise Unsupported(f"its activation is {block.mlp.gelu}")
        if len({block.ln_1.eps, block.ln_2.eps, tower.ln_final.eps}) > 1 or block.attn.in_proj_weight is None:
            raise Unsupported("its blocks have unequal norms or projections")
    mask = tower.attn_mask
    if mask is None or not torch.equal(mask.cpu(), torch.full_like(mask.cpu(), float("-inf")).triu(1)):
        raise Unsupported("its attention is not causal")
    pool_type, _ = pooling(tower)
    if pool_type not in ("argmax", "eos"):
        raise Unsupported(f"its features are pooled by {pool_type!r}, not taken from EOS")
    return blocks


def _fold_block(block: ResidualAttentionBlock, quick: bool, eps: float, sos: Tensor) -> tuple[DenseLayer, Tensor]:
    """The folded block, and the [SOS] activations (width,) after it, given those before it, `sos` (width,)."""

    def exact(tensor: Tensor) -> Tensor:
        return tensor.detach().cpu().double()

    def bias_of(layer_bias: Tensor | None, matrix: Tensor) -> Tensor:
        return torch.zeros(len(matrix), dtype=torch.float64) if layer_bias is None else exact(layer_bias)

    width = block.attn.embed_dim
    gain1, bias1 = exact(block.ln_1.weight), exact(block.ln_1.bias)
    gain2, bias2 = exact(block.ln_2.weight), exact(block.ln_2.bias)
    scale1, scale2 = (exact(ls.gamma) if isinstance(ls, LayerScale) else 1.0 for ls in (block.ls_1, block.ls_2))

    qkv = exact(block.attn.in_proj_weight)
    b_qkv = bias_of(block.attn.in_proj_bias, qkv) + qkv @ bias1
    qkv = qkv * gain1
    qkv[:width] /= math.sqrt(width // block.attn.num_heads)
    b_qkv[:width] /= math.sqrt(width // block.attn.num_heads)
    out = exact(block.attn.out_proj.weight)
    b_out = (bias_of(block.attn.out_proj.bias, out) + out @ b_qkv[2 * width :]) * scale1
    out = out.T * scale1

    fc, proj = exact(block.mlp.c_fc.weight), exact(block.mlp.c_proj.weight)
    b_fc = bias_of(block.mlp.c_fc.bias, fc) + fc @ bias2
    fc = fc * gain2
    b_proj = bias_of(block.mlp.c_proj.bias, proj) * scale2
    proj = proj.T * scale2
    if quick:
        fc, b_fc, proj = fc * QUICK, b_fc * QUICK, proj / QUICK

    normed = F.layer_norm(sos, (width,), eps=eps) @ qkv.T
    sos = sos + normed[2 * width :] @ out + b_out
    hidden = activate(F.layer_norm(sos, (width,), eps=eps) @ fc.T + b_fc, quick)
    layer = DenseLayer(qkv.T, b_qkv[:width], out, b_out, fc.T, b_fc, proj, b_proj, normed[width:])
    return layer, sos + hidden @ proj + b_proj


def _pack_block(block: ResidualAttentionBlock, layer: DenseLayer, quick: bool, kind: str) -> PackedLayer:
    """The block with its matrices packed, and with the factors that `_fold_block` applies to their rows and columns."""

    def factors(tensor: Tensor) -> Tensor:
        return tensor.detach().cpu().double()

    def ones(count: int) -> Tensor:
        return torch.ones(count, dtype=torch.float64)

    def packed(matrix: Tensor, rows: Tensor, columns: Tensor) -> PackedMatrix:
        return pack(matrix.detach().cpu(), kind, rows=rows, columns=columns)

    width, hidden = block.attn.embed_dim, len(block.mlp.c_fc.weight)
    scale1, scale2 = (factors(ls.gamma) if isinstance(ls, LayerScale) else ones(width) for ls in (block.ls_1, block.ls_2))
    of_queries = ones(3 * width)
    of_queries[:width] /= math.sqrt(width // block.attn.num_heads)
    quicken = QUICK if quick else 1.0
    return PackedLayer(
        packed(block.attn.in_proj_weight, factors(block.ln_1.weight), of_queries),
        packed(block.attn.out_proj.weight, ones(width), scale1),
        packed(block.mlp.c_fc.weight, factors(block.ln_2.weight), ones(hidden) * quicken),
        packed(block.mlp.c_proj.weight, ones(hidden), scale2 / quicken),
        *(layer.b_q, layer.b_out, layer.b_fc, layer.b_proj, layer.sos),
    )


def _readout(tower: TextTower) -> tuple[Tensor, Tensor]:
    """The projection (width, D) after the last norm, with the norm's gain and bias folded in, and its bias (D,)."""
    gain, bias = tower.ln_final.weight.detach().cpu().double(), tower.ln_final.bias.detach().cpu().double()
    projection = tower.text_projection
    offset: Tensor | float = 0.0
    if projection is None:
        matrix = torch.eye(len(gain), dtype=torch.float64)
    elif isinstance(projection, nn.Linear):
        matrix = projection.weight.detach().cpu().double().T
        offset = 0.0 if projection.bias is None else projection.bias.detach().cpu().double()
    else:
        matrix = projection.detach().cpu().double()
    return gain[:, None] * matrix, bias @ matrix + offset
