"""A prompted CLIP with the prompt on the text side: context tokens, determined by w, before, between or after the class names."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from clip.tangents import Linearized
from trainers.blackbox.linearized import LinearizedPrompt

# text features held at once take at most this fraction of the memory limit
SHARE_OF_FEATURES = 8

ExtraTensors = Callable[[Tensor], Mapping[str, Tensor]]


class TextEncoder(Protocol):
    """Text features of the class prompts as a function of their contexts: `clip.text.TextFeatures`."""

    def __call__(self, contexts: Tensor, dtype: torch.dtype) -> Tensor:
        """L2-normalized features (B, K, D) of contexts (B, n_ctx, width), or (B, K, n_ctx, width) with one per class."""

    def queries_per_pass(self, dtype: torch.dtype) -> int:
        """How many queries with one context each fit in one pass."""

    def linearized(self, context: Tensor, dtype: torch.dtype, tangent_dtype: torch.dtype) -> Linearized | None:
        """The features near one context, with their derivatives, if the tangent engine supports the tower."""


class TextPrompt:
    """Logits = scale · image · textᵀ, both L2-normalized. Image inputs are features, so no image passes the image tower."""

    def __init__(
        self,
        contexts: Callable[[Tensor], Tensor],
        *,
        text_features: TextEncoder,
        logit_scale: float,
        classes: int,
        width: int,
        memory_limit: int = 1 << 30,
        extra_tensors: ExtraTensors | None = None,
    ):
        """`contexts`: (B, d) → (B, n_ctx, width), or (B, `classes`, n_ctx, width). `width`: D of the features.

        `memory_limit`: bytes. `extra_tensors(w)`: what `tensors(w)` contains besides w and the context.
        """
        self.contexts, self.text_features, self.logit_scale = contexts, text_features, logit_scale
        self.classes, self.width, self.memory_limit = classes, width, memory_limit
        self.extra_tensors = extra_tensors

    def with_text_features(self, text_features: TextEncoder) -> TextPrompt:
        """The same prompt, encoded by other text features."""
        model = copy.copy(self)
        model.text_features = text_features
        return model

    def logits(self, W: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        text = self.text_features(self.contexts(W), dtype).transpose(1, 2)
        # half precision would round the logits, which are large, more than the features
        text = text.float() if dtype in (torch.bfloat16, torch.float16) else text
        # products in the precision of the pass, everything after them in float64, where it costs nothing
        return lambda features: self.logit_scale * (features.to(text.dtype) @ text).double()

    def linearized(self, w: Tensor, dtype: torch.dtype, tangent_dtype: torch.dtype) -> LinearizedPrompt | None:
        """The prompt near w (d,), in float32 or float64 at w itself; None if the tangent engine does not support it."""
        near = self.text_features.linearized(self.contexts(w[None])[0], dtype, tangent_dtype)
        return None if near is None else LinearizedPrompt(near, self.contexts, w, self.logit_scale)

    def points_per_pass(self) -> int:
        """Queries whose text features are held at once: enough for full speed, within an eighth of the memory limit."""
        features_per_query = self.classes * self.width * torch.float64.itemsize
        return max(1, min(256, self.memory_limit // (SHARE_OF_FEATURES * features_per_query)))

    def images_per_pass(self, points: int) -> int:
        return max(1, self.memory_limit // (points * self.classes * 3 * torch.float64.itemsize))

    def tangents_per_pass(self, dtype: torch.dtype) -> int:
        return min(self.points_per_pass(), self.text_features.queries_per_pass(dtype))

    def tower_images(self, points: int, images: int) -> int:
        return 0

    def tensors(self, w: Tensor) -> dict[str, Tensor]:
        """w (d,), the context at w, and the `extra_tensors`."""
        return {"w": w, "context": self.contexts(w[None])[0], **(self.extra_tensors(w) if self.extra_tensors else {})}
