"""The tangent engine: exact slopes of a loss along many changes of the context, by one pass at w and matrix products.

A pass at w stores what each layer's derivative needs (clip/recorded.py). A batch of tangents then goes through the layers as
rows of the same matrix products, in any precision: no nearly equal numbers are subtracted, so bfloat16 suffices. With dx a
tangent of the stream x, y the layer norm of x, σ its standard deviation, P the attention weights and h the activation's input:

    dy = (dx − mean(dx) − y·mean(y·dx)) / σ
    dS = dq·kᵀ + q·dkᵀ,   dP = P∘dS − P·Σ(P∘dS),   do = dP·v + P·dv
    da = activation'(h) ∘ dh

The loss enters only through ∂L/∂features, so images are not scored per tangent. There is no graph and no backward pass.

Not computed: tangents of [SOS], which no context reaches; in the first layer, queries, keys and values of name tokens, which
do not depend on w yet; in the last layer, anything but keys and values for rows other than EOS.

Rows are ordered by tree row and then by tangent, so that all tangents of a row are multiplied by one matrix stored at w.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clip.engine import LIVE_WIDTHS, ROWS_PER_PASS, Engine
from clip.layers import DenseWeights, PackedLayer, PackedWeights, Weights
from clip.recorded import Block, Norm, Recorded, record
from clip.tree import Attention
from utils.numbers import ceil_div

# vectors of the tower's width that a layer stores per row, besides keys, values and attention weights: two norms, queries,
# attention output, and the slope of the hidden layer
KEPT_WIDTHS = 8


class Linearized:
    """The text `features` (K, D) at one context, and the slopes of a loss there; `chunk` tangents per pass."""

    def __init__(self, tangents: Tangents, recorded: Recorded, leaf_of_class: Tensor):
        self.features, self.chunk = recorded.features[leaf_of_class], tangents.chunk
        self._tangents, self._recorded, self._leaf_of_class = tangents, recorded, leaf_of_class

    def slopes(self, directions: Tensor, sensitivity: Tensor) -> Tensor:
        """dL (m,) float64 along changes of the context (m, n_ctx, width), or (m, K, n_ctx, width), of a loss with
        ∂L/∂features = `sensitivity` (K, D)."""
        with torch.inference_mode():
            weight, m = self._weight(sensitivity), len(directions)
            # equal passes: 43 tangents at 42 per pass are 22 and 21, not 42 and 1
            passes = ceil_div(m, self.chunk)
            parts = directions.split(ceil_div(m, passes)) if m else ()
            sums = [self._tangents(part, self._recorded.blocks).double().mul_(weight).sum((0, 2)) for part in parts]
            return torch.cat(sums) if sums else weight.new_zeros(0)

    def _weight(self, sensitivity: Tensor) -> Tensor:
        """∂L/∂x (leaves, 1, width) float64 of the stream x after the last layer.

        From there on, all tangents go through the same linear map, so its transpose is applied to ∂L/∂features instead, once.
        The derivatives of normalization and of a layer norm are symmetric matrices.
        """
        features, lengths = self._recorded.features.double(), self._recorded.lengths.double()
        of_leaf = torch.zeros_like(features).index_add_(0, self._leaf_of_class, sensitivity.to(features))
        of_z = (of_leaf - features * (features * of_leaf).sum(-1, keepdim=True)) / lengths
        of_y = of_z @ self._tangents.readout.T
        norm = self._recorded.norm
        y, inverse = norm.value.double(), norm.inverse.double()
        return (inverse * (of_y - of_y.mean(-1, keepdim=True) - y * (y * of_y).mean(-1, keepdim=True)))[:, None]


class TangentEngine:
    """Slopes along changes of the context, for the names and the tower of an engine, on its device within its memory limit."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._tangents: dict[tuple[torch.dtype, bool], Tangents] = {}

    def __call__(self, context: Tensor, dtype: torch.dtype, tangent_dtype: torch.dtype) -> Linearized:
        """The tower at `context` (n_ctx, width), or (K, n_ctx, width) with one per class.

        `dtype`: of the pass at w, float32 or float64. `tangent_dtype`: of the tangents.
        """
        with torch.inference_mode():
            prepared = self.engine.prepared(dtype, context.ndim == 3)
            recorded = record(prepared, context.to(self.engine.device, dtype), tangent_dtype)
            return Linearized(self._tangents_of(tangent_dtype, context.ndim == 3), recorded, prepared.leaf_of_class)

    def chunk(self, dtype: torch.dtype, class_specific: bool = False) -> int:
        """Tangents per pass in `dtype`, from the names, the sizes and the memory limit only."""
        return self._tangents_of(dtype, class_specific).chunk

    def _tangents_of(self, dtype: torch.dtype, class_specific: bool) -> Tangents:
        key = (dtype, class_specific)
        if key not in self._tangents:
            with torch.inference_mode():
                self._tangents[key] = Tangents(self.engine, dtype, class_specific)
        return self._tangents[key]


@dataclass(frozen=True)
class Moves:
    """Which rows have tangents in a layer. `start`: the first row that the context reaches.

    `querying`: which of the rows from `start` on have queries with tangents; None for all. `output`: the rows that the rest of
    the tower needs; None for all. `queries` (G, S) and `keys` (G, T): the positions of the plan's queries and keys among the
    computed rows, −1 without a tangent.
    """

    plan: Attention
    start: int
    querying: Tensor | None
    output: Tensor | None
    queries: Tensor
    keys: Tensor


class Tangents:
    """Batches of tangents in one precision, and what is prepared once for them."""

    def __init__(self, engine: Engine, dtype: torch.dtype, class_specific: bool):
        prepared = engine.prepared(torch.float32, class_specific)
        self.dtype, self.device, tree = dtype, engine.device, prepared.tree
        tower = engine.folded.to(dtype, engine.device)
        self.layers: list[Weights] = [
            PackedWeights(layer) if isinstance(layer, PackedLayer) else DenseWeights.of(layer) for layer in tower.layers
        ]
        self.readout = engine.folded.readout.to(engine.device)
        self.heads, self.width, self.rows, self.names = tower.heads, prepared.width, len(tree), len(tree.tokens)
        self.moves = self._find_moves(prepared.rows, prepared.leaves, prepared.leaf_rows)
        self.buffers: dict[str, Tensor] = {}
        self.indices: dict[tuple[int, str, int], Tensor] = {}
        # on a CPU, the half-precision kernel of layer norm accepts float32 statistics only together with float32 weights
        mixed = dtype in (torch.bfloat16, torch.float16)
        self.statistics = torch.float32 if mixed else dtype
        self.ones = torch.ones(self.width, device=self.device) if mixed and self.device.type == "cpu" else None
        self.chunk = self._chunk(engine.memory_limit)

    def _chunk(self, memory_limit: int) -> int:
        spread = len(self.moves[0].keys.flatten()) / self.rows
        columns = self.moves[0].keys.shape[1] * self.heads / self.width
        stored = self.rows * (KEPT_WIDTHS + 2 * spread + columns) * len(self.layers)
        row = LIVE_WIDTHS + 2 * spread + columns
        limit = memory_limit / (self.width * self.dtype.itemsize) - stored
        rows = min(ROWS_PER_PASS.get(self.device.type, ROWS_PER_PASS["cuda"]), limit / row)
        return max(1, int(rows // self.rows))

    def _find_moves(self, rows: Attention, leaves: Attention, leaf_rows: Tensor) -> list[Moves]:
        """The moves of each layer; the layers between the first and the last share theirs."""
        everywhere = torch.arange(self.rows, device=self.device)

        def moves(first: bool, last: bool) -> Moves:
            plan = leaves if last else rows
            start = self.names if first else 0
            computed = torch.where(everywhere >= start, everywhere - start, -1)
            keys = computed[plan.keys].view(plan.groups, -1)
            # [SOS]
            keys[:, 0] = -1
            if not last:
                return Moves(plan, start, None, None, computed[plan.queries].view(plan.groups, -1), keys)
            # leaves are name tokens, which have no tangents in the first layer
            querying, queries = (leaf_rows[:0], torch.full_like(plan.queries, -1)) if first else (leaf_rows, plan.queries)
            return Moves(plan, start, querying, leaf_rows, queries.view(plan.groups, -1), keys)

        if len(self.layers) == 1:
            return [moves(True, True)]
        between = moves(False, False)
        return [moves(True, False), *[between] * (len(self.layers) - 2), moves(False, True)]

    def __call__(self, directions: Tensor, blocks: Sequence[Block]) -> Tensor:
        """Tangents (leaves, m, width) of the stream after the last layer, along `directions` (m, …, n_ctx, width)."""
        m, width = len(directions), self.width
        stream = self._buffer("stream", self.rows * m, width)
        stream[: self.names * m] = 0
        stream[self.names * m :].view(-1, m, width).copy_(directions.reshape(m, -1, width).transpose(0, 1))
        for weights, moves, block in zip(self.layers, self.moves, blocks, strict=True):
            stream = self._layer(stream, weights, moves, block, m)
        return stream.view(-1, m, width)

    def _layer(self, stream: Tensor, weights: Weights, moves: Moves, block: Block, m: int) -> Tensor:
        dy = self._norm(stream[moves.start * m :], block.norm1, moves.start, m)
        dkv = self._product("kv", dy, weights.kv)
        dq = self._product("q", self._rows(dy, moves.querying, m), weights.q)
        stream = self._rows(stream, moves.output, m)
        stream.addmm_(self._attention(dq, dkv, moves, block, m), weights.out)
        dh = self._product("hidden", self._norm(stream, block.norm2, 0, m), weights.fc)
        dh.view(-1, m, dh.shape[1]).mul_(block.slope[:, None])
        return stream.addmm_(dh, weights.proj)

    def _norm(self, dx: Tensor, norm: Norm, start: int, m: int) -> Tensor:
        """dy of dx (rows·m, width), for the rows of `norm` from `start` on.

        The derivative of a layer norm is a symmetric matrix, so torch's kernel for the transposed product computes this one.
        """
        centered, inverse = norm.centered[start:], norm.inverse[start:].to(self.statistics)
        x = self._buffer("centered", len(dx), self.width)
        x.view(-1, m, self.width).copy_(centered[:, None])
        inverse = inverse.repeat(1, m).view(-1, 1)
        mean = torch.zeros_like(inverse)
        shape, output_mask = [self.width], [True, False, False]
        return torch.ops.aten.native_layer_norm_backward(dx, x, shape, mean, inverse, self.ones, None, output_mask)[0]

    def _attention(self, dq: Tensor, dkv: Tensor, moves: Moves, block: Block, m: int) -> Tensor:
        """do (output rows · m, width) of dq (querying rows · m, width) and dkv (rows from `start` on · m, 2·width)."""
        at = block.heads
        pairs, S, size = at.q.shape
        T = at.k.shape[1]
        dq, dk, dv = self._by_head(dq, dkv, moves, m)
        dS = torch.bmm(dq.view(pairs, S * m, size), at.k.transpose(1, 2), out=self._buffer("scores", pairs, S * m, T))
        dS.view(pairs, S, m * T).baddbmm_(at.q, dk.view(pairs, m * T, size).transpose(1, 2))
        weighted = dS.view(pairs, S, m, T).mul_(at.P[:, :, None])
        total = weighted.sum(-1, keepdim=True)
        # dP·v, from P·v
        do = torch.bmm(weighted.view(pairs, S * m, T), at.v, out=self._buffer("output", pairs, S * m, size))
        do.view(pairs, S, m, size).addcmul_(total, at.output[:, :, None], value=-1)
        do.view(pairs, S, m * size).baddbmm_(at.P, dv.view(pairs, T, m * size))
        index = self._index(moves, "output", m)
        out = self._buffer("attended", len(index) // self.heads, self.width)
        torch.index_select(do.view(-1, size), 0, index, out=out.view(-1, size))
        return out

    def _by_head(self, dq: Tensor, dkv: Tensor, moves: Moves, m: int) -> tuple[Tensor, Tensor, Tensor]:
        """dq (GH, S, m, s), dk (GH, m, T, s) and dv (GH, T, m, s), flat; zero for rows without tangents."""
        size = self.width // self.heads
        found = []
        for name, source in (("queries", dq), ("keys", dkv), ("values", dkv)):
            index = self._index(moves, name, m)
            # _product leaves room for a chunk of zeros after its rows
            chunks = source.as_strided((source.numel() // size + 1, size), (size, 1))
            found.append(torch.index_select(chunks, 0, index, out=self._buffer(name, len(index), size)))
        return found[0], found[1], found[2]

    def _index(self, moves: Moves, which: str, m: int) -> Tensor:
        """Gathers, from a product's rows in chunks of a head's size, those that attention reads."""
        key = (id(moves), which, m)
        if key not in self.indices:
            heads = torch.arange(self.heads, device=self.device)
            tangents = torch.arange(m, device=self.device)
            if which == "output":
                group, place = moves.plan.slots // moves.queries.shape[1], moves.plan.slots % moves.queries.shape[1]
                pairs = group[:, None] * self.heads + heads
                slots = pairs * moves.queries.shape[1] + place[:, None]
                index = slots[:, None, :] * m + tangents[:, None]
            else:
                rows = moves.queries if which == "queries" else moves.keys
                parts, part = {"queries": (1, 0), "keys": (2, 0), "values": (2, 1)}[which]
                moving = len(moves.querying) if moves.querying is not None else self.rows - moves.start
                zero = (moving if which == "queries" else self.rows - moves.start) * m * parts * self.heads
                rows = rows[:, None, :, None]
                index = ((rows * m + tangents) * parts + part) * self.heads + heads[:, None, None]
                index = torch.where(rows < 0, zero, index)
                index = index.transpose(2, 3) if which == "keys" else index
            self.indices[key] = index.flatten()
        return self.indices[key]

    def _rows(self, tensor: Tensor, rows: Tensor | None, m: int) -> Tensor:
        """The `rows` of `tensor` (n·m, width), with all their tangents."""
        return tensor if rows is None else tensor.view(-1, m, self.width)[rows].view(-1, self.width)

    def _product(self, name: str, rows: Tensor, matrix: Tensor) -> Tensor:
        n, width = len(rows), matrix.shape[1]
        size = self.width // self.heads
        room = self._buffer(name, n * width + size)
        room[n * width :] = 0
        return torch.mm(rows, matrix, out=room[: n * width].view(n, width))

    def _buffer(self, name: str, *shape: int) -> Tensor:
        """Uninitialized memory, reused by the next pass."""
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = torch.empty(size, dtype=self.dtype, device=self.device)
        return self.buffers[name][:size].view(shape)
