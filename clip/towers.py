"""Protocols for the parts of open_clip's text towers and tokenizers that this package uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from open_clip.transformer import Transformer
from torch import Tensor, nn


class Tokenizer(Protocol):
    """CLIP's own tokenizer, open_clip's SimpleTokenizer."""

    context_length: int

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` without [SOS] and [EOS], of any length."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids (K, context_length) from [SOS] to [EOS], padded or truncated."""


class TextTower(Protocol):
    """A causal text tower: a CLIP model itself, or its `text` if open_clip separates the tower.

    `pool_type` and `eos_id`, or `text_pool_type` and `text_eos_id`, say from which token the feature is taken: see `pooling`.
    If `text_projection` is None, the features are those of the last norm.
    """

    token_embedding: nn.Embedding
    positional_embedding: Tensor
    transformer: Transformer
    ln_final: nn.LayerNorm
    text_projection: nn.Linear | Tensor | None
    attn_mask: Tensor | None


def pooling(tower: TextTower) -> tuple[str, int | None]:
    """How the tower pools a prompt ("argmax", "eos", …), and the id of [EOS] if pooling needs it."""
    pool_type: str | None = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)
    eos_id: int | None = getattr(tower, "text_eos_id", None) or getattr(tower, "eos_id", None)
    return pool_type or "", eos_id
