"""Text features under prompts at the input of several layers: open_clip's own blocks on whole prompts (BPT-VLM, deep)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import Transformer
from torch import Tensor

from clip.backbone import Backbone
from clip.prompt import clean_name, context_ids, text_tower, tokenize
from clip.stock import Stock, TowerParts
from clip.text import unpacked
from utils.errors import UserError

Watch = Callable[[int, Tensor], None]


class DeepText(Stock):
    """Features (B, K, D) of K class names after context tokens that are replaced at the input of each of the first L layers."""

    def __init__(self, backbone: Backbone, classnames: Sequence[str], init_words: str, memory_limit: int):
        """`init_words` reserve the context's positions. `memory_limit`: bytes that the activations of one pass may take.

        `warnings` are lines for the user. Raises UserError if the text transformer is not open_clip's.
        """
        tower = text_tower(backbone)
        if not isinstance(tower.transformer, Transformer):
            raise UserError(
                f"--deep: the text transformer of {backbone.name} is a {type(tower.transformer).__name__}, which takes no deep "
                "prompts; use --no-deep or another --backbone"
            )
        tokens, self.warnings = tokenize(backbone, [f"{clean_name(init_words)} {clean_name(name)}." for name in classnames])
        self.warnings += unpacked(backbone)
        self.n_ctx = len(context_ids(backbone, init_words))
        slots = torch.arange(1, 1 + self.n_ctx).expand(len(tokens), -1)
        super().__init__(tower, tokens.to(backbone.device), slots.to(backbone.device), memory_limit)

    @property
    def layers(self) -> int:
        return len(self._parts[torch.float32].transformer.resblocks)

    def __call__(self, contexts: Tensor, dtype: torch.dtype = torch.float32, watch: Watch | None = None) -> Tensor:
        """L2-normalized, in `dtype`, of `contexts` (B, L, n_ctx, width). `watch(layer, tokens)` receives each layer's output."""
        tower = self._tower(dtype)
        contexts = contexts.to(self.tokens.device, dtype)
        B, K = len(contexts), len(self.tokens)
        features = []
        for prompts in torch.arange(B * K, device=self.tokens.device).split(self.chunk(dtype)):
            x = self._embeddings[prompts % K].to(dtype)
            features.append(self._encode(tower, x, contexts[prompts // K], self.tokens[prompts % K], watch))
        return F.normalize(torch.cat(features), dim=-1).view(B, K, -1)

    def _encode(self, tower: TowerParts, x: Tensor, contexts: Tensor, tokens: Tensor, watch: Watch | None) -> Tensor:
        context_slots = slice(1, 1 + self.n_ctx)
        x[:, context_slots] = contexts[:, 0]
        x = x + tower.positional_embedding
        for layer, block in enumerate(tower.transformer.resblocks):
            if 0 < layer < contexts.shape[1]:
                x = torch.cat([x[:, :1], contexts[:, layer], x[:, context_slots.stop :]], 1)
            x = block(x, attn_mask=tower.attn_mask)
            if watch is not None:
                watch(layer, x)
        return tower.pool(x, tokens)
