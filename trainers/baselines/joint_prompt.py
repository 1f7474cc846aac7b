"""BPT-VLM's prompt: how a vector becomes prompt tokens of both towers, and the scales of its random projections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clip.deep_text import DeepText
from clip.prompt import text_tower
from clip.visual_prompt import PromptedVision
from trainers.blackbox.images import ImageSet
from trainers.blackbox.task import FewShotTask
from utils.seeds import torch_generator
from utils.settings import Config

CLIPPINGS = 5
# number of images, and of classes, in the forward pass that sets the scale of deep projections
FIRST_FORWARD = 32


@dataclass(frozen=True)
class JointPrompt:
    """From vectors to the prompt tokens of both towers at the input of L layers, in float64 on the CPU.

    A row of W (B, L·(d_L + d_V)) is [w_L, w_V] of each layer in turn. `A_text` (L, n_ctx·width, d_L) and `A_image` (L, m·width,
    d_V) are fixed; `p0` (n_ctx, width), zero as published, is added to the first layer's text tokens; `n_visual` is m.
    """

    A_text: Tensor
    A_image: Tensor
    p0: Tensor
    n_visual: int

    @property
    def d(self) -> int:
        return len(self.A_text) * (self.A_text.shape[2] + self.A_image.shape[2])

    def contexts(self, W: Tensor) -> Tensor:
        """Text tokens (B, L, n_ctx, width)."""
        tokens = self._project(self._parts(W)[0], self.A_text, len(self.p0))
        tokens[:, 0] += self.p0
        return tokens

    def visual_tokens(self, W: Tensor) -> Tensor:
        """Image tokens (B, L, m, width)."""
        return self._project(self._parts(W)[1], self.A_image, self.n_visual)

    def _parts(self, W: Tensor) -> tuple[Tensor, Tensor]:
        d_text, d_image = self.A_text.shape[2], self.A_image.shape[2]
        return W.to(self.A_text).view(len(W), len(self.A_text), -1).split([d_text, d_image], dim=2)

    @staticmethod
    def _project(w: Tensor, A: Tensor, tokens: int) -> Tensor:
        return torch.einsum("lpd,bld->blp", A, w).unflatten(2, (tokens, -1))


@dataclass(frozen=True)
class Scale:
    """The standard deviation of a layer's text projection, and the mean and standard deviation of its image projection."""

    text_std: float
    image_mean: float
    image_std: float


def first_scales(config: Config, task: FewShotTask, vision: PromptedVision) -> Scale:
    """Text: std(token embeddings) / (√d_L·σ). Image: mean and std of the patch embedding with d_V as its fan-in, times σ."""
    patch, fan_in = vision.patch_weights, vision.patch_weights[0].numel()
    tokens = text_tower(task.backbone).token_embedding.weight.detach()
    return Scale(
        config.std * float(tokens.std()) / (config.intrinsic_dim**0.5 * config.sigma),
        config.std * float(patch.mean()) * fan_in / config.intrinsic_dim_v,
        config.std * float(patch.std()) * (fan_in / config.intrinsic_dim_v) ** 0.5 * config.sigma,
    )


def hidden_scales(
    config: Config, *, text: DeepText, vision: PromptedVision, p0: Tensor, train: ImageSet, layers: int
) -> list[Scale]:
    """Layers 2 to L: std / (√d·σ) of each layer's hidden states in a first forward pass, with all deep prompts zero.

    That pass is of the class prompts of `text` and of the first `FIRST_FORWARD` training images, whatever the memory limit.
    """
    deep = torch.zeros(1, layers, *p0.shape, dtype=torch.float64)
    deep[0, 0] = p0
    images = train[torch.arange(min(FIRST_FORWARD, len(train)))].inputs
    with torch.inference_mode():
        text_stds = _stds(lambda watch: text(deep, watch=watch))
        tokens = torch.zeros(1, layers, config.n_visual, vision.width)
        image_stds = _stds(lambda watch: vision(vision.embed(images), tokens, watch))
    return [
        Scale(
            config.std * text_stds[layer] / (config.intrinsic_dim**0.5 * config.sigma),
            0.0,
            config.std * image_stds[layer] / (config.intrinsic_dim_v**0.5 * config.sigma),
        )
        for layer in range(1, layers)
    ]


def _stds(forward: Callable[[Callable[[int, Tensor], None]], Tensor]) -> list[float]:
    """Standard deviation of each layer's output, clipped `CLIPPINGS` times to ±3 standard deviations around its mean."""
    passes: dict[int, list[Tensor]] = {}
    forward(lambda layer, hidden: passes.setdefault(layer, []).append(hidden.flatten(0, 1)))
    stds = []
    for layer in sorted(passes):
        hidden = torch.cat(passes.pop(layer))
        for _ in range(CLIPPINGS):
            std, mean = torch.std_mean(hidden)
            hidden = hidden.clamp(mean - 3 * std, mean + 3 * std)
        stds.append(float(hidden.std()))
    return stds


def draw_projections(config: Config, p0: Tensor, image_width: int, scales: list[Scale]) -> JointPrompt:
    """Gaussian projections with the `scales` of each layer."""
    generator = torch_generator(config.seed, "projection")

    def draw(rows: int, columns: int, mean: float, std: float) -> Tensor:
        return mean + std * torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    text = [draw(p0.numel(), config.intrinsic_dim, 0.0, scale.text_std) for scale in scales]
    rows = config.n_visual * image_width
    image = [draw(rows, config.intrinsic_dim_v, scale.image_mean, scale.image_std) for scale in scales]
    return JointPrompt(torch.stack(text), torch.stack(image), p0, config.n_visual)
