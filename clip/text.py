"""Text features of prompts whose context tokens are given as vectors: open_clip's own text tower, whole prompts, plainly.

This is the reference path: every prompt passes every position of the tower, and no work is shared between queries or classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

from clip.backbone import Backbone
from clip.prompt import clean_name, text_tower, tokenize

# activations alive at once in a transformer block, in multiples of a token's width: residual, norm, q k v, output, 4 + 4 of the MLP
LIVE_WIDTHS = 14


class TextFeatures:
    """Features of the prompts "[SOS] context NAME. [EOS]" for K class names.

    The context takes the places of the words `ctx_init`, so a context equal to their embeddings gives exactly open_clip's
    features of "ctx_init NAME.".
    """

    def __init__(self, backbone: Backbone, classnames: Sequence[str], ctx_init: str, memory_limit: int):
        """`memory_limit`: bytes that the activations of one pass may take."""
        tokens, self.warnings = tokenize(backbone, [f"{clean_name(ctx_init)} {clean_name(name)}." for name in classnames])
        self.n_ctx = len(backbone.tokenizer.encode(clean_name(ctx_init)))
        self.tokens = tokens.to(backbone.device)
        self.memory_limit = memory_limit
        self._parts = {torch.float32: _TowerParts(text_tower(backbone))}
        self._embeddings = text_tower(backbone).token_embedding(self.tokens).detach()

    def __call__(self, contexts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """L2-normalised features (B, K, D) in `dtype` of `contexts` (B, n_ctx, width)."""
        tower = self._tower(dtype)
        B, K = len(contexts), len(self.tokens)
        contexts = contexts.to(self.tokens.device, dtype)
        features = []
        # B·K prompts, row by row: prompt p is class p mod K under context p // K
        for prompts in torch.arange(B * K, device=self.tokens.device).split(self.chunk(dtype)):
            x = self._embeddings[prompts % K].to(dtype)
            x[:, 1 : 1 + self.n_ctx] = contexts[prompts // K]
            features.append(tower(x, self.tokens[prompts % K]))
        return F.normalize(torch.cat(features), dim=-1).view(B, K, -1)

    def of_prompts(self, backbone: Backbone, prompts: Sequence[str]) -> Tensor:
        """L2-normalised features (K, D) float32 of whole text prompts, as a zero-shot classifier uses them."""
        tokens, _ = tokenize(backbone, prompts)
        tokens = tokens.to(backbone.device)
        chunks = tokens.split(self.chunk(torch.float32))
        return torch.cat([backbone.model.encode_text(chunk, normalize=True) for chunk in chunks])

    def chunk(self, dtype: torch.dtype) -> int:
        """Prompts a pass, from the memory limit alone. At most about 4 000 token rows: more gains nothing on a CPU's caches."""
        length, width = self._embeddings.shape[1:]
        heads = self._parts[torch.float32].transformer.resblocks[0].attn.num_heads
        values = length * (LIVE_WIDTHS * width + heads * length)
        fits = self.memory_limit // (values * dtype.itemsize)
        useful = 4096 // length if self.tokens.device.type == "cpu" else fits
        return max(1, min(fits, useful))

    def _tower(self, dtype: torch.dtype) -> _TowerParts:
        if dtype not in self._parts:
            self._parts[dtype] = copy.deepcopy(self._parts[torch.float32]).to(dtype)
        return self._parts[dtype]


class _TowerParts(nn.Module):
    """What a text tower does after the token embedding, in open_clip's modules; copied as a whole for another precision."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.transformer = tower.transformer
        self.positional_embedding = tower.positional_embedding
        self.ln_final = tower.ln_final
        self.text_projection = tower.text_projection
        self.pool_type = getattr(tower, "text_pool_type", None) or tower.pool_type
        self.eos_id = getattr(tower, "text_eos_id", None) or getattr(tower, "eos_id", None)
        self.register_buffer("attn_mask", tower.attn_mask, persistent=False)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Features (P, D) of token embeddings x (P, L, width); `tokens` (P, L) tell where a prompt ends."""
        x = self.transformer(x + self.positional_embedding, attn_mask=self.attn_mask)
        x = text_global_pool(self.ln_final(x), tokens, self.pool_type, eos_token_id=self.eos_id)
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(x)
        return x if self.text_projection is None else x @ self.text_projection
