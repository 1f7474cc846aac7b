"""The scoring engine: exactly the features of the reference path, for a small fraction of its work.

Every distinct prompt prefix is one row (clip/tree.py), [SOS] is computed once per run (clip/folded.py), many queries share
each matrix product, and the last layer is completed for [EOS] rows only. docs/engine.md says how much each of these saves.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from clip.folded import Foldable, FoldedTower, activate
from clip.layers import Layer
from clip.replay import Replay
from clip.towers import TextTower
from clip.tree import Attention, PromptTree, build_tree
from utils.numbers import ceil_div

# rows per matrix product: enough for full speed, few enough that a pass stays near the caches
ROWS_PER_PASS = {"cpu": 2048, "cuda": 32768}
# on CUDA, passes of fewer rows are replayed as one graph, since launching their kernels takes longer than running them
REPLAYED_BELOW = 4096
# values held per row, in multiples of the width: stream, norm, q k v, padded keys and values, attention output twice, MLP
LIVE_WIDTHS = 16


class Engine:
    """Features of K prompts for a batch of contexts. Plain PyTorch operations; one implementation for every device."""

    def __init__(
        self,
        tower: TextTower,
        suffixes: list[list[int]],
        n_ctx: int,
        sos_token: int,
        memory_limit: int,
        tower_weights: str = "float32",
    ):
        """`suffixes`: token ids after the context, including [EOS]. `memory_limit`: bytes for the activations of one pass.

        `tower_weights`: what the tower's matrices were rounded to. Only the parts of the tower that passes need stay in memory.
        Raises clip.folded.Unsupported for a tower that only the reference path supports.
        """
        self.folded = Foldable(tower, sos_token, tower_weights)
        self.device = tower.positional_embedding.device
        self.suffixes, self.n_ctx, self.memory_limit = suffixes, n_ctx, memory_limit
        self.token_ids = torch.tensor(sorted({token for suffix in suffixes for token in suffix}))
        self.token_rows = tower.token_embedding.weight.detach()[self.token_ids]
        self.replay = True
        self._passes: dict[tuple[torch.dtype, bool], Prepared] = {}

    def __call__(self, contexts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """L2-normalized features (B, K, D) of contexts (B, n_ctx, width), or (B, K, n_ctx, width) with one per class.

        Differentiable if `contexts` carries a tangent, or requires gradients while they are enabled; otherwise computed in place
        and without a graph.
        """
        forward_mode = forward_ad.unpack_dual(contexts).tangent is not None
        differentiable = forward_mode or (torch.is_grad_enabled() and contexts.requires_grad)
        run = self.prepared(dtype, class_specific=contexts.ndim == 4)
        with torch.inference_mode(not differentiable):
            # equal passes: 43 queries at 42 per pass are 22 and 21, not 42 and 1
            passes = ceil_div(len(contexts), self.chunk(dtype, contexts.ndim == 4))
            chunks = contexts.to(self.device, dtype).split(ceil_div(len(contexts), passes))
            # depends on sizes only, so that a resumed run reproduces its bits
            small = self.device.type == "cuda" and len(chunks[0]) * len(run.tree) < REPLAYED_BELOW
            if self.replay and small and not differentiable:
                return torch.cat([run.replayed(chunk) for chunk in chunks])
            return torch.cat([run(chunk, differentiable) for chunk in chunks])

    def chunk(self, dtype: torch.dtype, class_specific: bool = False) -> int:
        """Queries per pass, from the class names, the sizes and the memory limit only, never from timing or free memory."""
        tree = self.prepared(dtype, class_specific).tree
        most = ROWS_PER_PASS.get(self.device.type, ROWS_PER_PASS["cuda"])
        rows = min(most, self.memory_limit / self._row_bytes(tree, dtype))
        return max(1, int(rows // len(tree)))

    def pass_bytes(self, dtype: torch.dtype, class_specific: bool = False) -> float:
        """The modeled size in bytes of the activations of one pass, which `chunk` holds below the memory limit."""
        tree = self.prepared(dtype, class_specific).tree
        return self.chunk(dtype, class_specific) * len(tree) * self._row_bytes(tree, dtype)

    def _row_bytes(self, tree: PromptTree, dtype: torch.dtype) -> float:
        spread = len(tree.rows.keys) / len(tree)
        return (LIVE_WIDTHS + 2 * spread) * self.folded.positions.shape[1] * dtype.itemsize

    def tree(self, class_specific: bool = False) -> PromptTree:
        """The tree whose rows one query computes."""
        return self.prepared(torch.float32, class_specific).tree

    def prepared(self, dtype: torch.dtype, class_specific: bool) -> Prepared:
        key = (dtype, class_specific)
        if key not in self._passes:
            # ordinary tensors, even when first requested in inference mode: a differentiable pass must be able to save them
            with torch.inference_mode(False), torch.no_grad():
                tree = build_tree(self.suffixes, self.n_ctx, class_specific)
                tokens = self.token_rows[torch.searchsorted(self.token_ids, tree.tokens)]
                self._passes[key] = Prepared(self.folded.to(dtype, self.device), tree, tokens, self.device)
        return self._passes[key]


class Prepared:
    """The forward pass in one precision over one tree, with everything that is prepared for it once."""

    def __init__(self, tower: FoldedTower, tree: PromptTree, tokens: Tensor, device: torch.device):
        """`tokens`: embeddings of the tree's `tokens`."""
        self.tower, self.tree = tower, tree
        self.rows, self.leaves = tree.rows.to(device), tree.leaves.to(device)
        self.leaf_rows = tree.leaf_rows.to(device)
        self.leaf_of_class = tree.leaf_of_class.to(device)
        self.masks: dict[tuple[int, int], Tensor] = {}
        self.indices: dict[tuple[int, str, int], Tensor | None] = {}
        self.buffers: dict[str, Tensor] = {}
        self.replays: dict[torch.Size, tuple[Replay, dict[str, Tensor]]] = {}
        self.in_place = True
        dtype = tower.positions.dtype
        positions = tree.positions.to(device)
        self.width = tower.positions.shape[1]
        # the first layer's input is the same for the name tokens of every query
        self.x0 = tokens.to(dtype) + tower.positions[positions]
        self.qkv0 = F.layer_norm(self.x0, (self.width,), eps=tower.eps) @ tower.layers[0].qkv
        self.qkv0[:, : self.width] += tower.layers[0].b_q
        self.context_positions = tower.positions[1 : 1 + tree.n_ctx]

    def __call__(self, contexts: Tensor, differentiable: bool) -> Tensor:
        """Features (B, K, D) of contexts (B, n_ctx, width) or (B, K, n_ctx, width)."""
        self.in_place = not differentiable
        B, w = len(contexts), self.width
        context_rows = (contexts + self.context_positions).view(B, -1, w)
        x = self._assemble("x", self.x0, context_rows)
        *layers, last = self.tower.layers
        for i, layer in enumerate(layers):
            qkv = self._first_qkv(context_rows, layer) if i == 0 else self._product("qkv", self._norm(x), layer.qkv)
            q, kv = qkv[:, :w], qkv[:, w:]
            x = self._add_attention(x, q if i == 0 else q + layer.b_q, kv, layer, self.rows, B)
            x = self._add_mlp(x, layer)
        one_layer = not layers
        kv = self._first_qkv(context_rows, last)[:, w:] if one_layer else self._product("qkv", self._norm(x), last.qkv[:, w:])
        leaves = x.view(B, -1, w)[:, self.leaf_rows].view(-1, w)
        q = torch.addmm(last.b_q, self._norm(leaves), last.qkv[:, :w])
        leaves = self._add_attention(leaves, q, kv, last, self.leaves, B)
        leaves = self._add_mlp(leaves, last)
        features = torch.addmm(self.tower.b_readout, self._norm(leaves), self.tower.readout)
        features = F.normalize(features, dim=-1).view(B, -1, features.shape[-1])
        return features[:, self.leaf_of_class]

    def replayed(self, contexts: Tensor) -> Tensor:
        """Like a call, but not differentiable, by a CUDA graph per shape of contexts, captured at the first call with it."""
        if contexts.shape not in self.replays:
            # the graph gets its own buffers, which no larger pass replaces
            buffers, self.buffers = self.buffers, {}
            try:
                replay = Replay(lambda given: self(given, False), contexts)
                self.replays[contexts.shape] = replay, self.buffers
            finally:
                self.buffers = buffers
        return self.replays[contexts.shape][0](contexts)

    def _first_qkv(self, context_rows: Tensor, layer: Layer) -> Tensor:
        """q, k, v of the first layer (B·R, 3·width): precomputed for name tokens, computed for context tokens."""
        qkv = self._norm(context_rows) @ layer.qkv
        return self._assemble("qkv", self.qkv0, qkv + F.pad(layer.b_q, (0, 2 * self.width)))

    def _assemble(self, name: str, fixed: Tensor, varying: Tensor) -> Tensor:
        """Rows (B·R, ·): for each query the `fixed` ones (n, ·), then its own `varying` ones (B, R − n, ·)."""
        B, n = len(varying), len(fixed)
        rows = self._buffer(name, B, n + varying.shape[1], fixed.shape[1])
        rows[:, :n] = fixed
        rows[:, n:] = varying
        return rows.view(-1, fixed.shape[1])

    def _add_attention(self, x: Tensor, q: Tensor, kv: Tensor, layer: Layer, plan: Attention, B: int) -> Tensor:
        """x plus the attention output; `q` (B·rows, width) of the plan's queries, `kv` (B·R, 2·width) of all rows."""
        w, heads = self.width, self.tower.heads
        q = self._pick("queries", q, plan, "queries", B).view(B * plan.groups, -1, heads, w // heads)
        kv = self._pick("keys", kv, plan, "keys", B).view(B * plan.groups, -1, 2, heads, w // heads)
        kv[:, 0] = layer.sos.view(2, heads, -1)
        q, k, v = q.transpose(1, 2), kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)
        output = F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask(plan, B), scale=1.0)
        output = self._pick("output", output.transpose(1, 2).reshape(-1, w), plan, "slots", B)
        return self._add(x, output, layer.out, layer.b_out)

    def _pick(self, name: str, rows: Tensor, plan: Attention, which: str, B: int) -> Tensor:
        """From each query's part of `rows`, those that the plan's list `which` names; `rows` itself if it names all."""
        index = self._index(plan, which, B, len(rows) // B)
        if index is None:
            return rows
        if not self.in_place:
            return rows.index_select(0, index)
        return torch.index_select(rows, 0, index, out=self._buffer(name, len(index), rows.shape[1]))

    def _index(self, plan: Attention, which: str, B: int, rows: int) -> Tensor | None:
        """The plan's list `which`, for each of B queries of `rows` rows; None if it is 0, 1, … rows − 1."""
        key = (id(plan), which, B)
        if key not in self.indices:
            with torch.inference_mode(False):
                once = getattr(plan, which)
                steps = torch.arange(rows, device=once.device)
                index = (once + rows * torch.arange(B, device=once.device)[:, None]).flatten()
                self.indices[key] = None if torch.equal(once, steps) else index
        return self.indices[key]

    def _add_mlp(self, x: Tensor, layer: Layer) -> Tensor:
        hidden = self._product("hidden", self._norm(x), layer.fc, layer.b_fc)
        return self._add(x, activate(hidden, self.tower.quick, self.in_place), layer.proj, layer.b_proj)

    def _product(self, name: str, rows: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        out = self._buffer(name, len(rows), matrix.shape[1]) if self.in_place else None
        return torch.mm(rows, matrix, out=out) if bias is None else torch.addmm(bias, rows, matrix, out=out)

    def _add(self, x: Tensor, rows: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        """x + rows · matrix + bias, written into x unless a graph needs the old values."""
        return x.addmm_(rows, matrix).add_(bias) if self.in_place else torch.addmm(x, rows, matrix) + bias

    def _norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), eps=self.tower.eps)

    def _mask(self, plan: Attention, B: int) -> Tensor:
        key = (id(plan), B)
        if key not in self.masks:
            with torch.inference_mode(False):
                self.masks[key] = plan.mask.to(self.x0.dtype).repeat(B, 1, 1, 1)
        return self.masks[key]

    def _buffer(self, name: str, *shape: int) -> Tensor:
        """Uninitialized memory, reused in the next pass, since fresh pages cost more than the arithmetic on them."""
        if not self.in_place:
            return self.x0.new_empty(shape)
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = self.x0.new_empty(size)
        return self.buffers[name][:size].view(shape)
