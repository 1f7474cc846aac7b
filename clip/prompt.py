"""The learnable prompt: [SOS] p0 + reshape(A·w) [name] "." [EOS], and what it takes to keep and use one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clip.backbone import Backbone
from utils.errors import UserError
from utils.files import write_bytes

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
    """The context itself as the vector: C(w) = p0 + w, row after row, with no projection."""

    p0: Tensor

    @property
    def d(self) -> int:
        return self.p0.numel()

    def contexts(self, W: Tensor) -> Tensor:
        """Context tokens (B, n_ctx, width) float64 of W (B, d)."""
        return self.p0 + W.to(self.p0).view(len(W), *self.p0.shape)


def initial_context(backbone: Backbone, ctx_init: str, n_ctx: int, generator: torch.Generator) -> tuple[str, Tensor]:
    """The words that hold the context's places, and where it starts, p0 (n_ctx, width) float64.

    That is the embeddings of the words `ctx_init`; where it is empty, `n_ctx` vectors N(0, 0.02²), in the places of as many "x".
    """
    if ctx_init:
        return ctx_init, context_embeddings(backbone, ctx_init)
    words = placeholder_words(n_ctx)
    shape = context_embeddings(backbone, words).shape
    return words, random_context(shape, generator)


def random_context(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Vectors of `shape` (…, width) ~ N(0, 0.02²), float64."""
    return RANDOM_CONTEXT_STD * torch.randn(shape, generator=generator, dtype=torch.float64)


def placeholder_words(n_ctx: int) -> str:
    """Words of one token each, which hold the places of context tokens that start from none."""
    return " ".join(["x"] * n_ctx)


def context_embeddings(backbone: Backbone, words: str) -> Tensor:
    """Token embeddings (n_ctx, width) of the words, float64 on the CPU."""
    ids = context_ids(backbone, words)
    return text_tower(backbone).token_embedding.weight.detach()[ids].cpu().double()


def make_projection(p0: Tensor, d: int, std: float, generator: torch.Generator) -> Projection:
    """A drawn from `generator`."""
    A = torch.randn(p0.numel(), d, generator=generator).double() * std
    return Projection(p0, A)


def context_ids(backbone: Backbone, ctx_init: str) -> list[int]:
    """The token ids of the words that the context starts from. Raises UserError where they leave no room for a name."""
    ids = backbone.tokenizer.encode(clean_name(ctx_init))
    # [SOS], a name of at least one token, [EOS]
    if not ids or len(ids) + 3 > backbone.tokenizer.context_length:
        raise UserError(
            f"--ctx_init: {ctx_init!r} is {len(ids)} tokens long; {backbone.name} takes 1 to "
            f"{backbone.tokenizer.context_length - 3}"
        )
    return ids


def text_tower(backbone: Backbone) -> torch.nn.Module:
    """The module that holds token_embedding, transformer, …: the model itself, or its `text` where open_clip keeps it apart."""
    return getattr(backbone.model, "text", backbone.model)


def clean_name(name: str) -> str:
    """A class name as it stands in a prompt: underscores are spaces."""
    return name.replace("_", " ")


def tokenize(backbone: Backbone, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Token ids (K, context length) of whole prompts, and a line for each thing the user should know of them."""
    limit = backbone.tokenizer.context_length
    warnings = []
    encoded = [backbone.tokenizer.encode(prompt) for prompt in prompts]
    long = [prompt for prompt, ids in zip(prompts, encoded, strict=True) if len(ids) + 2 > limit]
    if long:
        warnings.append(
            f"{len(long)} prompts are longer than {limit} tokens and lose their end: {', '.join(map(repr, long[:3]))}"
        )
    if backbone.known_tokens is not None:
        strange = [p for p, ids in zip(prompts, encoded, strict=True) if not backbone.known_tokens.issuperset(ids)]
        if strange:
            warnings.append(
                f"{backbone.name} was never trained on some words of {len(strange)} prompts, so their embeddings are random: "
                + ", ".join(map(repr, strange[:3]))
            )
    return backbone.tokenizer(list(prompts)), warnings


def save_prompt(path: Path, tensors: Mapping[str, Tensor], metadata: dict) -> None:
    """One safetensors file: w (d,), context (n_ctx, width) and what a method adds; `metadata` as JSON in its header."""
    from safetensors.torch import save

    # copies: safetensors refuses tensors that share memory, as w and a context that is w itself do
    kept = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    write_bytes(path, save(kept, metadata={"sharpzo": json.dumps(metadata)}))


def load_prompt(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and metadata that `save_prompt` wrote. Raises UserError for a file that is something else."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads(file.metadata()["sharpzo"])
            names = {"w", *file.keys()}
            return {name: file.get_tensor(name) for name in sorted(names)}, metadata
    except (OSError, SafetensorError, TypeError, KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a prompt that SharpZO saved: {error}") from error
