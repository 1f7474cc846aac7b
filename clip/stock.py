"""The reference path: open_clip's own text tower on whole prompts, with no work shared between queries or classes.

The engine is tested against it, and towers that the engine does not support fall back on it.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

from clip.towers import TextTower, pooling

# values alive at once in a block, in multiples of a token's width: stream, norm, q k v, output, 4 + 4 of the MLP
LIVE_WIDTHS = 14


class Stock:
    """Features (B, K, D) of K tokenized prompts whose context tokens are given as vectors."""

    def __init__(self, tower: TextTower, tokens: Tensor, slots: Tensor, memory_limit: int):
        """`tokens` (K, L) and the context's positions `slots` (K, n_ctx) among them, on the tower's device.

        `memory_limit`: bytes that the activations of one pass may take.
        """
        self.tokens, self.slots, self.memory_limit = tokens, slots, memory_limit
        self._parts = {torch.float32: TowerParts(tower)}
        self._embeddings = tower.token_embedding(tokens).detach()

    def __call__(self, contexts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """L2-normalized, in `dtype`, of `contexts` (B, n_ctx, width), or (B, K, n_ctx, width) with one per class."""
        tower = self._tower(dtype)
        B, K = len(contexts), len(self.tokens)
        contexts = contexts.to(self.tokens.device, dtype)
        if contexts.ndim == 3:
            contexts = contexts[:, None].expand(-1, K, -1, -1)
        features = []
        # B·K prompts, row by row: prompt p is class p mod K under context p // K
        for prompts in torch.arange(B * K, device=self.tokens.device).split(self.chunk(dtype)):
            x = self._embeddings[prompts % K].to(dtype)
            rows = torch.arange(len(x), device=x.device)[:, None]
            x[rows, self.slots[prompts % K]] = contexts[prompts // K, prompts % K]
            features.append(tower(x, self.tokens[prompts % K]))
        return F.normalize(torch.cat(features), dim=-1).view(B, K, -1)

    def chunk(self, dtype: torch.dtype) -> int:
        """Prompts per pass, from the memory limit only; on a CPU at most about 4,000 tokens, since more are not faster there."""
        length, width = self._embeddings.shape[1:]
        heads = self._parts[torch.float32].transformer.resblocks[0].attn.num_heads
        values = length * (LIVE_WIDTHS * width + heads * length)
        fits = self.memory_limit // (values * dtype.itemsize)
        useful = 4096 // length if self.tokens.device.type == "cpu" else fits
        return max(1, min(fits, useful))

    def _tower(self, dtype: torch.dtype) -> TowerParts:
        if dtype not in self._parts:
            # ordinary tensors, even when first requested in inference mode, so that `fo` can differentiate through them
            with torch.inference_mode(False):
                self._parts[dtype] = copy.deepcopy(self._parts[torch.float32]).to(dtype)
        return self._parts[dtype]


class TowerParts(nn.Module):
    """A text tower after the token embedding, in open_clip's modules; copied as a whole for another precision."""

    attn_mask: Tensor | None

    def __init__(self, tower: TextTower):
        super().__init__()
        self.transformer = tower.transformer
        self.positional_embedding = tower.positional_embedding
        self.ln_final = tower.ln_final
        self.text_projection = tower.text_projection
        self.pool_type, self.eos_id = pooling(tower)
        self.register_buffer("attn_mask", tower.attn_mask, persistent=False)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Features (P, D) of token embeddings x (P, L, width); `tokens` (P, L) locate each prompt's end."""
        x = self.transformer(x + self.positional_embedding, attn_mask=self.attn_mask)
        return self.pool(x, tokens)

    def pool(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Features (P, D) from the output of the last block (P, L, width)."""
        pooled: Tensor = text_global_pool(self.ln_final(x), tokens, self.pool_type, eos_token_id=self.eos_id)
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(pooled)
        return pooled if self.text_projection is None else pooled @ self.text_projection
