"""The learnable prompt, [SOS] p0 + reshape(A·w) [name] "." [EOS]: contexts, tokens, and the prompt file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clip.backbone import Backbone
from clip.towers import TextTower
from utils.errors import UserError
from utils.files import write_bytes

PROMPT_FILE = "prompt.safetensors"
RANDOM_CONTEXT_STD = 0.02


@dataclass(frozen=True)
class Projection:
    """From vectors to contexts: C(w) = p0 + reshape(A·w), in float64 on the CPU, whatever the model's device.

    `p0` (n_ctx, width): token embeddings of the initial words. `A` (n_ctx·width, d): fixed, entries N(0, std²).
    """

    p0: Tensor
    A: Tensor

    @property
    def d(self) -> int:
        return self.A.shape[1]

    def contexts(self, W: Tensor) -> Tensor:
        """Context tokens (B, n_ctx, width) float64 of W (B, d)."""
        return self.p0 + (W.to(self.A) @ self.A.T).view(len(W), *self.p0.shape)


@dataclass(frozen=True)
class FullSpace:
    """The context itself as the vector: C(w) = p0 + w, row by row, with no projection."""

    p0: Tensor

    @property
    def d(self) -> int:
        return self.p0.numel()

    def contexts(self, W: Tensor) -> Tensor:
        """Context tokens (B, n_ctx, width) float64 of W (B, d)."""
        return self.p0 + W.to(self.p0).view(len(W), *self.p0.shape)


def initial_context(backbone: Backbone, ctx_init: str, n_ctx: int, generator: torch.Generator) -> tuple[str, Tensor]:
    """The words that reserve the context's positions, and the initial context p0 (n_ctx, width) float64.

    p0 is the embeddings of the words `ctx_init`. If that is empty, p0 is `n_ctx` vectors N(0, 0.02²) at the positions of
    `n_ctx` placeholders.
    """
    if ctx_init:
        return ctx_init, context_embeddings(backbone, ctx_init)
    init_words = placeholder_words(n_ctx)
    shape = context_embeddings(backbone, init_words).shape
    return init_words, random_context(shape, generator)


def random_context(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Vectors of `shape` (…, width) ~ N(0, 0.02²), float64."""
    return RANDOM_CONTEXT_STD * torch.randn(shape, generator=generator, dtype=torch.float64)


def placeholder_words(n_ctx: int) -> str:
    """`n_ctx` words of one token each, "x", that reserve the positions of a context with no initial words."""
    return " ".join(["x"] * n_ctx)


def context_embeddings(backbone: Backbone, init_words: str) -> Tensor:
    """Token embeddings (n_ctx, width) of the words, float64 on the CPU."""
    ids = context_ids(backbone, init_words)
    return text_tower(backbone).token_embedding.weight.detach()[ids].cpu().double()


def make_projection(p0: Tensor, d: int, std: float, generator: torch.Generator) -> Projection:
    """The projection of p0 (n_ctx, width) to d dimensions, with A ~ N(0, std²) drawn from `generator`."""
    A = torch.randn(p0.numel(), d, generator=generator).double() * std
    return Projection(p0, A)


def context_ids(backbone: Backbone, ctx_init: str) -> list[int]:
    """The token ids of the context's initial words. Raises UserError if they leave no room for a class name."""
    ids = backbone.tokenizer.encode(clean_name(ctx_init))
    # [SOS], a name of at least one token, [EOS]
    if not ids or len(ids) + 3 > backbone.tokenizer.context_length:
        raise UserError(
            f"--ctx_init: {ctx_init!r} is {len(ids)} tokens long; {backbone.name} takes 1 to "
            f"{backbone.tokenizer.context_length - 3}; use a shorter one"
        )
    return ids


def text_tower(backbone: Backbone) -> TextTower:
    """The module with token_embedding, transformer, …: the model itself, or its `text` if open_clip separates the tower."""
    return cast(TextTower, getattr(backbone.model, "text", backbone.model))


def clean_name(name: str) -> str:
    """A class name as written in a prompt: underscores become spaces."""
    return name.replace("_", " ")


def tokenize(backbone: Backbone, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Token ids (K, context length) of whole prompts, and warnings for the user."""
    limit = backbone.tokenizer.context_length
    warnings = []
    encoded = [backbone.tokenizer.encode(prompt) for prompt in prompts]
    seen: set[tuple[int, ...]] = set()
    equal = []
    for prompt, ids in zip(prompts, encoded, strict=True):
        key = tuple(ids[: limit - 2])
        if key in seen:
            equal.append(prompt)
        seen.add(key)
    if equal:
        warnings.append(
            f"{len(equal)} prompts have the same tokens as another class's, so only one of these classes can be predicted: "
            + ", ".join(map(repr, equal[:3]))
        )
    long = [prompt for prompt, ids in zip(prompts, encoded, strict=True) if len(ids) + 2 > limit]
    if long:
        warnings.append(f"{len(long)} prompts exceed {limit} tokens and are truncated: {', '.join(map(repr, long[:3]))}")
    if backbone.known_tokens is not None:
        untrained = [p for p, ids in zip(prompts, encoded, strict=True) if not backbone.known_tokens.issuperset(ids)]
        if untrained:
            warnings.append(
                f"{backbone.name} was never trained on some words of {len(untrained)} prompts, so their embeddings are random: "
                + ", ".join(map(repr, untrained[:3]))
            )
    return backbone.tokenizer(list(prompts)), warnings


def save_prompt(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """One safetensors file: w (d,), context (n_ctx, width) and a method's own tensors; `metadata` as JSON in its header."""
    # copies, since safetensors refuses tensors that share memory, such as w and a context that is a view of it
    copies = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    write_bytes(path, save(copies, metadata={"sharpzo": json.dumps(metadata)}))


def load_prompt(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and metadata that `save_prompt` wrote. Raises UserError for any other file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads(file.metadata()["sharpzo"])
            names = {"w", *file.keys()}
            tensors = {name: file.get_tensor(name) for name in sorted(names)}
    except (OSError, SafetensorError, TypeError, KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a prompt that SharpZO saved: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} has NaN or infinite values; train the prompt again or restore the file")
    return tensors, metadata
