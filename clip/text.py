"""Text features of prompts whose context tokens are given as vectors: all that a query needs from the text tower."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.backbone import Backbone
from clip.engine import Engine
from clip.folded import Unsupported
from clip.prompt import clean_name, context_ids, text_tower, tokenize
from clip.stock import Stock
from clip.tangents import Linearized, TangentEngine
from clip.towers import TextTower, pooling

ZERO_SHOT_PROMPTS_PER_PASS = 256


class TextFeatures:
    """Features of the prompts "[SOS] context NAME. [EOS]" for K class names, by the fast engine or the stock tower.

    The context takes the positions of the words `init_words`, so a context equal to their embeddings gives exactly open_clip's
    features of "init_words NAME.". `warnings` are lines for the user.
    """

    def __init__(
        self,
        backbone: Backbone,
        classnames: Sequence[str],
        init_words: str,
        memory_limit: int,
        engine: str = "fast",
        position: str = "end",
    ):
        """`memory_limit`: bytes that the activations of one pass may take. `engine`: "fast" or "stock".

        `position`: the class name is at the "end" of the context, in its "middle" (after ⌊n_ctx/2⌋ tokens) or at its "front".
        The fast engine needs prompts with a common beginning, so only "end" uses it; the others take the stock path.
        """
        prompts = [f"{clean_name(init_words)} {clean_name(name)}." for name in classnames]
        tokens, self.warnings = tokenize(backbone, prompts)
        tower = text_tower(backbone)
        self.device = backbone.device
        n_ctx = len(context_ids(backbone, init_words))
        self.classes = len(prompts)
        self.engine: Engine | None = None
        self._features: Engine | Stock
        slots = torch.arange(1, 1 + n_ctx).expand(len(tokens), -1)
        if position != "end":
            name_lengths = [len(backbone.tokenizer.encode(clean_name(name))) for name in classnames]
            tokens, slots = move_names(tokens, name_lengths, n_ctx, n_ctx // 2 if position == "middle" else 0)
            if engine == "fast":
                self.warnings.append(f"--class_token_position {position}: prompts have no common beginning; using --engine stock")
        elif engine == "fast":
            try:
                suffixes = [
                    row[1 + n_ctx : end + 1].tolist() for row, end in zip(tokens, prompt_ends(tower, tokens), strict=True)
                ]
                self._features = self.engine = Engine(
                    tower, suffixes, n_ctx, int(tokens[0, 0]), memory_limit, backbone.tower_weights
                )
                self._tangents = TangentEngine(self.engine)
                return
            except Unsupported as reason:
                self.warnings.append(f"the fast engine does not support this text tower ({reason}); using --engine stock")
        self.warnings += unpacked(backbone)
        self._features = Stock(tower, tokens.to(backbone.device), slots.to(backbone.device), memory_limit)

    def __call__(self, contexts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """L2-normalized features (B, K, D) in `dtype` of `contexts` (B, n_ctx, width), or (B, K, n_ctx, width)."""
        return self._features(contexts, dtype)

    def linearized(self, context: Tensor, dtype: torch.dtype, tangent_dtype: torch.dtype) -> Linearized | None:
        """The features at `context` (n_ctx, width) or (K, n_ctx, width), with slopes; None if the stock tower is used.

        `dtype`: of the pass at the context, float32 or float64. `tangent_dtype`: of the tangents.
        """
        return self._tangents(context, dtype, tangent_dtype) if self.engine else None

    def queries_per_pass(self, dtype: torch.dtype) -> int:
        """How many queries with one context each fit in one pass."""
        return max(1, self.chunk(dtype) // (1 if self.engine else self.classes))

    def chunk(self, dtype: torch.dtype) -> int:
        """How many queries (fast) or prompts (stock) share one pass."""
        return self._features.chunk(dtype)


def unpacked(backbone: Backbone) -> list[str]:
    """A warning if a tower in fewer bits takes a path that stores its values as float32."""
    if backbone.tower_weights == "float32":
        return []
    return [f"--tower_weights {backbone.tower_weights}: the stock tower stores these values as float32 and saves no memory"]


def move_names(tokens: Tensor, name_lengths: Sequence[int], n_ctx: int, before: int) -> tuple[Tensor, Tensor]:
    """Tokens (K, L) with each name moved from after the context to after its first `before` tokens; and the context's slots.

    As in CoOp, the period and all tokens after it keep their positions. A name that was too long for its row is truncated; the
    [EOS] that ends the row stays last, so that the whole context precedes it. Slots (K, n_ctx) are positions in the new rows.
    """
    longest = tokens.shape[1] - 2 - n_ctx
    reordered, slots = tokens.clone(), torch.empty(len(tokens), n_ctx, dtype=torch.long)
    for k, length in enumerate(name_lengths):
        context, name = tokens[k, 1 : 1 + n_ctx], tokens[k, 1 + n_ctx : 1 + n_ctx + min(length, longest)]
        end = 1 + n_ctx + len(name)
        reordered[k, 1:end] = torch.cat([context[:before], name, context[before:]])
        slots[k] = 1 + torch.cat([torch.arange(before), torch.arange(before, n_ctx) + len(name)])
    return reordered, slots


def zero_shot_features(backbone: Backbone, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
    """L2-normalized features (K, D) float32 of whole text prompts, by open_clip's own `encode_text`; and warnings."""
    tokens, warnings = tokenize(backbone, prompts)
    with torch.inference_mode():
        chunks = tokens.to(backbone.device).split(ZERO_SHOT_PROMPTS_PER_PASS)
        return torch.cat([backbone.model.encode_text(chunk, normalize=True) for chunk in chunks]), warnings


def ensemble_features(backbone: Backbone, classnames: Sequence[str], templates: Sequence[str]) -> tuple[Tensor, list[str]]:
    """L2-normalized means (K, D) over the templates of each name's features; and warnings. A name replaces `{}`."""
    prompts = [template.replace("{}", clean_name(name)) for template in templates for name in classnames]
    features, warnings = zero_shot_features(backbone, prompts)
    features = features.unflatten(0, (len(templates), -1))
    return F.normalize(features.mean(0), dim=-1) if len(templates) > 1 else features[0], warnings


def prompt_ends(tower: TextTower, tokens: Tensor) -> Tensor:
    """The positions (K,) from which the tower takes each prompt's feature: [EOS], CLIP's largest id."""
    pool_type, eos_id = pooling(tower)
    if pool_type == "eos" and eos_id is not None:
        return tokens.eq(eos_id).int().argmax(-1)
    return tokens.argmax(-1)
