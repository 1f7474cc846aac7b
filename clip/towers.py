"""What this package uses of open_clip's text towers and tokenizers, as protocols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from open_clip.transformer import Transformer
from torch import Tensor, nn


class Tokenizer(Protocol):
    """CLIP's own tokenizer, by the name that it has in open_clip: SimpleTokenizer."""

    context_length: int

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` without [SOS] and [EOS], of any length."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids (K, context_length) from [SOS] to [EOS], padded or cut."""


class TextTower(Protocol):
    """A causal text tower: a CLIP model itself, or its `text` where open_clip keeps the tower apart.

    The token that pools a prompt is described by `pool_type` and `eos_id`, or by `text_pool_type` and `text_eos_id`: see
    `pooling`. With `text_projection` of None the features are those of the last norm.
    """

    token_embedding: nn.Embedding
    positional_embedding: Tensor
    transformer: Transformer
    ln_final: nn.LayerNorm
    text_projection: nn.Linear | Tensor | None
    attn_mask: Tensor | None


def pooling(tower: TextTower) -> tuple[str, int | None]:
    """How the tower pools a prompt ("argmax", "eos", …), and the id of [EOS] where it is needed."""
    pool_type: str | None = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)
    eos_id: int | None = getattr(tower, "text_eos_id", None) or getattr(tower, "eos_id", None)
    return pool_type or "", eos_id
