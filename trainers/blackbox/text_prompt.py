"""A prompted CLIP whose prompt is on the text side: contexts of w in front of, between or behind the class names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# text features held at once never take more than this part of the memory limit
SHARE_OF_FEATURES = 8


class TextPrompt:
    """Scores = scale · image · textᵀ, both L2-normalized. Images come as features, so that no picture passes the image tower."""

    def __init__(
        self,
        contexts: Callable[[Tensor], Tensor],
        text_features: Callable[[Tensor, torch.dtype], Tensor],
        logit_scale: float,
        classes: int,
        width: int,
        memory_limit: int = 1 << 30,
        keep: Callable[[Tensor], dict[str, Tensor]] | None = None,
    ):
        """`contexts`: (B, d) → (B, n_ctx, width) or one a class. `text_features`: contexts, dtype → (B, `classes`, `width`).

        `memory_limit`: bytes. `keep`: what `tensors(w)` holds besides w and context.
        """
        self.contexts, self.text_features, self.logit_scale = contexts, text_features, logit_scale
        self.classes, self.width, self.memory_limit = classes, width, memory_limit
        self.keep = keep

    def logits(self, W: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        text = self.text_features(self.contexts(W), dtype).transpose(1, 2)
        # the products in the pass's precision, what follows in float64, where it costs nothing
        return lambda features: self.logit_scale * (features.to(dtype) @ text).double()

    def points_per_pass(self) -> int:
        """Queries whose text features are held at once: many products' worth, within an eighth of the memory limit."""
        features_per_query = self.classes * self.width * torch.float64.itemsize
        return max(1, min(256, self.memory_limit // (SHARE_OF_FEATURES * features_per_query)))

    def images_per_pass(self, points: int) -> int:
        return max(1, self.memory_limit // (points * self.classes * 3 * torch.float64.itemsize))

    def tangents_per_pass(self, dtype: torch.dtype) -> int:
        return min(self.points_per_pass(), self.text_features.queries_per_pass(dtype))

    def tower_images(self, points: int, images: int) -> int:
        return 0

    def tensors(self, w: Tensor) -> dict[str, Tensor]:
        """w (d,), the context at w, and what it is made from."""
        return {"w": w, "context": self.contexts(w[None])[0]} | (self.keep(w) if self.keep else {})
