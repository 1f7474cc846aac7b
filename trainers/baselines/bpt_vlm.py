"""BPT-VLM (Yu et al., IJCAI 2023): prompt tokens of both towers from one vector, by CMA-ES.

Shallow: w = [w_L, w_V]; text tokens A_L·w_L at the context's positions, image tokens A_V·w_V after the patches. Deep: one such
vector per layer, each with its own CMA-ES; the layers take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from clip.deep_text import DeepText
from clip.prompt import initial_context, placeholder_words, text_tower
from clip.visual_prompt import PromptedVision
from trainers.blackbox.batches import FullBatch
from trainers.blackbox.cmaes import CMAES, NaiveCMAES, configured_cmaes, naive_cmaes
from trainers.blackbox.criteria import criterion
from trainers.blackbox.gradients import LossFunction
from trainers.blackbox.images import ImageSet, image_sets
from trainers.blackbox.objective import Objective
from trainers.blackbox.problem import Problem, text_features
from trainers.blackbox.task import FewShotTask
from trainers.blackbox.text_prompt import SHARE_OF_FEATURES
from trainers.saved import Scorer
from utils.errors import UserError
from utils.seeds import torch_generator
from utils.settings import Config

CLIPPINGS = 5
# number of images, and of classes, in the forward pass that sets the scale of deep projections
FIRST_FORWARD = 32

Encode = Callable[[Tensor, torch.dtype], Tensor]


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


class PromptedTowers:
    """CLIP with prompt tokens in both towers; inputs are preprocessed images (n, 3, H, W)."""

    def __init__(
        self,
        prompt: JointPrompt,
        *,
        text: Encode,
        vision: PromptedVision,
        logit_scale: float,
        classes: int,
        feature_width: int,
        memory_limit: int,
    ):
        """`text`: contexts (B, L, n_ctx, width), dtype → features (B, `classes`, `feature_width`). `memory_limit`: bytes."""
        self.prompt, self.text, self.vision, self.logit_scale = prompt, text, vision, logit_scale
        self.classes, self.feature_width, self.memory_limit = classes, feature_width, memory_limit

    def logits(self, W: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        text = self.text(self.prompt.contexts(W), dtype).transpose(1, 2)
        tokens = self.prompt.visual_tokens(W)

        def score(images: Tensor) -> Tensor:
            features = self.vision(self.vision.embed(images, dtype), tokens)
            return self.logit_scale * (features @ text).double()

        return score

    def points_per_pass(self) -> int:
        """Points whose text features are held at once; images are loaded and embedded once for all of them."""
        features_per_point = self.classes * self.feature_width * torch.float64.itemsize
        return max(1, min(256, self.memory_limit // (SHARE_OF_FEATURES * features_per_point)))

    def images_per_pass(self, points: int) -> int:
        """Images whose patches, and whose features and logits at every point, fit an eighth of the memory limit."""
        tower = self.vision
        values = 2 * tower.tokens * tower.width + points * (self.feature_width + 3 * self.classes)
        return max(1, self.memory_limit // (SHARE_OF_FEATURES * values * torch.float64.itemsize))

    def tower_images(self, points: int, images: int) -> int:
        return points * images

    def tensors(self, w: Tensor) -> dict[str, Tensor]:
        """w (d,), the tokens of both towers at w, and, for shallow prompts, their projections."""
        prompt = self.prompt
        tensors = {"w": w, "context": prompt.contexts(w[None])[0], "visual_tokens": prompt.visual_tokens(w[None])[0]}
        if len(prompt.A_text) == 1:
            # the projections of twelve layers would take 380 MB at ViT-B's size
            tensors |= {"A_text": prompt.A_text[0], "A_image": prompt.A_image[0], "p0": prompt.p0}
        return tensors


def problem(config: Config, task: FewShotTask) -> Problem:
    """Both towers' prompts on all training images under CLIP's test transform.

    Raises UserError if the image tower is not a ViT, and for deep prompts that are not deployed at the best point.
    """
    backbone, limit = task.backbone, config.memory_limit << 20
    vision = PromptedVision(backbone, limit)
    train, val, test = image_sets(config, task)
    init_words, p0 = initial_context(backbone, config.ctx_init, config.n_ctx, torch_generator(config.seed, "initial context"))
    p0 = p0 if config.ctx_init else torch.zeros_like(p0)
    scales = [first_scales(config, task, vision)]
    if config.deep:
        if config.deploy != "best":
            raise UserError(f"--deploy: deep prompts are deployed at the best point, not at {config.deploy}; use --deploy best")
        text = DeepText(backbone, task.dataset.classnames, init_words, limit)
        encode, warnings = cast(Encode, text), text.warnings
        first = DeepText(backbone, task.dataset.classnames[:FIRST_FORWARD], init_words, limit)
        layers = min(text.layers, vision.layers)
        scales += hidden_scales(config, text=first, vision=vision, p0=p0, train=train, layers=layers)
    else:
        encode, warnings = shallow_encoder(config, task, init_words)
    prompt = draw_projections(config, p0, vision.width, scales)
    model = PromptedTowers(
        prompt,
        text=encode,
        vision=vision,
        logit_scale=backbone.logit_scale,
        classes=len(task.dataset.classnames),
        feature_width=task.test_samples.inputs.shape[1],
        memory_limit=limit,
    )
    objective = Objective(model, FullBatch(train, encoded=0), config.precision, config.batch_size, criterion(config))
    zeros = torch.zeros(prompt.d, dtype=torch.float64)
    return Problem(objective, zeros, train, val, test, steps=config.total_steps, warnings=warnings)


def shallow_encoder(config: Config, task: FewShotTask, init_words: str) -> tuple[Encode, list[str]]:
    """Text features of contexts (B, 1, n_ctx, width) at the input of the first layer; and warnings."""
    text = text_features(config, task, init_words)
    return lambda contexts, dtype: text(contexts[:, 0], dtype), text.warnings


def restore(config: Config, task: FewShotTask, tensors: Mapping[str, Tensor]) -> Scorer:
    """The saved tokens of both towers, before this dataset's class names and after the patches of its test images."""
    backbone, limit, classnames = task.backbone, config.memory_limit << 20, task.dataset.classnames
    vision = PromptedVision(backbone, limit)
    *_, test_images = image_sets(config, task)
    contexts, tokens = tensors["context"][None], tensors["visual_tokens"][None]
    init_words = config.ctx_init or placeholder_words(contexts.shape[2])
    with torch.inference_mode():
        if contexts.shape[1] == 1:
            text = text_features(config, task, init_words)(contexts[:, 0])
        else:
            text = DeepText(backbone, classnames, init_words, limit)(contexts)
    scale = backbone.logit_scale
    return Scorer(
        lambda inputs: scale * (vision(vision.embed(inputs), tokens)[0] @ text[0].T).double(),
        test_images,
        config.batch_size,
        lambda inputs: inputs.to(backbone.device),
        text[0],
    )


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


class LayerByLayer:
    """One CMA-ES per layer, in turn; a layer's candidates are scored with the best prompts so far in the other layers.

    The best prompts are those of the lowest loss so far, or zero before the first generation. S queries per step.
    """

    stage = 1

    def __init__(self, layers: list[CMAES]):
        self.layers = layers
        self.best = torch.zeros(len(layers), layers[0].d, dtype=torch.float64)
        self.best_loss = float("inf")
        self.steps = 0

    @property
    def solution(self) -> Tensor:
        return self.best.flatten()

    def num_queries(self, steps: int) -> int:
        return steps * self.layers[0].popsize

    def step(self, objective: LossFunction) -> dict[str, float]:
        """One generation of one layer. Returns loss (mean of the candidates), best_loss (of the run so far) and sigma."""
        layer = self.steps % len(self.layers)
        inner = self.layers[layer]
        candidates = inner.ask()
        points = self.best.repeat(len(candidates), 1, 1)
        points[:, layer] = candidates
        losses = objective(points.flatten(1))
        inner.tell(candidates, losses)
        lowest = int(losses.argmin())
        if float(losses[lowest]) < self.best_loss:
            self.best_loss, self.best = float(losses[lowest]), points[lowest].clone()
        self.steps += 1
        return {"loss": float(losses.mean()), "best_loss": self.best_loss, "sigma": inner.sigma}


def build(config: Config, problem: Problem) -> NaiveCMAES | LayerByLayer:
    d, d_layer = len(problem.initial), config.intrinsic_dim + config.intrinsic_dim_v
    if not config.deep:
        return naive_cmaes(config, d)
    zeros = torch.zeros(d_layer, dtype=torch.float64)
    layers = [configured_cmaes(config, zeros, stream=f"CMA-ES of layer {layer}") for layer in range(d // d_layer)]
    return LayerByLayer(layers)
