"""BPT-VLM (Yu et al., IJCAI 2023): prompt tokens of both towers from one vector, by CMA-ES.

Shallow: w = [w_L, w_V]; text tokens A_L·w_L in the context's places, image tokens A_V·w_V behind the patches. Deep: one such
vector for each layer, each with a CMA-ES of its own that is asked in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clip.deep_text import DeepText
from clip.prompt import initial_context, placeholder_words, text_tower
from clip.text import TextFeatures
from clip.visual_prompt import PromptedVision
from trainers.blackbox.batches import FullBatch
from trainers.blackbox.cmaes import CMAES, NaiveCMAES, configured_cmaes, naive_cmaes
from trainers.blackbox.gradients import LossFunction
from trainers.blackbox.objective import Objective, criterion
from trainers.blackbox.pictures import Pictures, picture_sets
from trainers.blackbox.problem import Problem
from trainers.blackbox.text_prompt import SHARE_OF_FEATURES
from trainers.saved import Scorer
from utils.errors import UserError
from utils.seeds import torch_generator
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.task import FewShotTask

CLIPPINGS = 5
# pictures, and classes, of the forward that deep projections take their scale from
FIRST_FORWARD = 32

Encode = Callable[[Tensor, torch.dtype], Tensor]


@dataclass(frozen=True)
class JointPrompt:
    """From vectors to the prompt tokens of both towers at the input of L layers, in float64 on the CPU.

    A row of W (B, L·(d_L + d_V)) holds layer after layer [w_L, w_V]. `A_text` (L, n_ctx·width, d_L) and `A_image` (L, m·width,
    d_V) are fixed; `p0` (n_ctx, width) is added to the first layer's text tokens, zero as published; `n_visual` is m.
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
    """CLIP with prompt tokens in both towers; images come as preprocessed pictures (n, 3, H, W)."""

    def __init__(
        self,
        prompt: JointPrompt,
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

        def score(pictures: Tensor) -> Tensor:
            features = self.vision(self.vision.embed(pictures, dtype), tokens)
            return self.logit_scale * (features @ text).double()

        return score

    def points_per_pass(self) -> int:
        """Points whose text features are held at once; pictures are loaded and cut into patches once for all of them."""
        features_per_point = self.classes * self.feature_width * torch.float64.itemsize
        return max(1, min(256, self.memory_limit // (SHARE_OF_FEATURES * features_per_point)))

    def images_per_pass(self, points: int) -> int:
        """Pictures whose patches, and features and scores at every point, fit an eighth of the memory limit."""
        tower = self.vision
        values = 2 * tower.tokens * tower.width + points * (self.feature_width + 3 * self.classes)
        return max(1, self.memory_limit // (SHARE_OF_FEATURES * values * torch.float64.itemsize))

    def tower_images(self, points: int, images: int) -> int:
        return points * images

    def tensors(self, w: Tensor) -> dict[str, Tensor]:
        """w (d,), the tokens of both towers at w, and, where they are shallow, the projections behind them."""
        kept = {"w": w, "context": self.prompt.contexts(w[None])[0], "visual_tokens": self.prompt.visual_tokens(w[None])[0]}
        if len(self.prompt.A_text) == 1:
            # those of twelve layers would take 380 MB at ViT-B's size
            kept |= {"A_text": self.prompt.A_text[0], "A_image": self.prompt.A_image[0], "p0": self.prompt.p0}
        return kept


def problem(config: Config, task: FewShotTask) -> Problem:
    """Both towers' prompts on all training pictures under CLIP's test transform. UserError for a backbone that is no ViT."""
    backbone, limit = task.backbone, config.memory_limit << 20
    vision = PromptedVision(backbone, limit)
    train, val, test = picture_sets(config, task)
    words, p0 = initial_context(backbone, config.ctx_init, config.n_ctx, torch_generator(config.seed, "initial context"))
    p0 = p0 if config.ctx_init else torch.zeros_like(p0)
    scales = [first_scales(config, task, vision)]
    if config.deep:
        if config.deploy != "best":
            raise UserError(f"--deploy: deep prompts are used at the best point seen, not the {config.deploy} one")
        encode = text = DeepText(backbone, task.dataset.classnames, words, limit)
        first = DeepText(backbone, task.dataset.classnames[:FIRST_FORWARD], words, limit)
        scales += hidden_scales(config, first, vision, p0, train, min(text.layers, vision.layers))
    else:
        text = TextFeatures(backbone, task.dataset.classnames, words, limit, config.engine, config.class_token_position)
        encode = partial(_in_first_layer, text)
    prompt = draw_projections(config, p0, vision.width, scales)
    classes, width = len(task.dataset.classnames), task.test_samples.inputs.shape[1]
    model = PromptedTowers(prompt, encode, vision, backbone.logit_scale, classes, width, limit)
    objective = Objective(model, FullBatch(train, encoded=0), config.precision, config.batch_size, criterion(config))
    zeros = torch.zeros(prompt.d, dtype=torch.float64)
    return Problem(objective, zeros, train, val, test, steps=config.total_steps, warnings=text.warnings)


def restore(config: Config, task: FewShotTask, tensors: Mapping[str, Tensor]) -> Scorer:
    """The saved tokens of both towers, before this dataset's names and behind the patches of its test pictures."""
    backbone, limit, classnames = task.backbone, config.memory_limit << 20, task.dataset.classnames
    vision = PromptedVision(backbone, limit)
    *_, pictures = picture_sets(config, task)
    contexts, tokens = tensors["context"][None], tensors["visual_tokens"][None]
    words = config.ctx_init or placeholder_words(contexts.shape[2])
    with torch.inference_mode():
        if contexts.shape[1] == 1:
            text = TextFeatures(backbone, classnames, words, limit, config.engine, config.class_token_position)(contexts[:, 0])
        else:
            text = DeepText(backbone, classnames, words, limit)(contexts)
    scale = backbone.logit_scale
    return Scorer(
        lambda inputs: scale * (vision(vision.embed(inputs), tokens)[0] @ text[0].T).double(),
        pictures,
        config.batch_size,
        lambda inputs: inputs.to(backbone.device),
    )


def _in_first_layer(text: TextFeatures, contexts: Tensor, dtype: torch.dtype) -> Tensor:
    """Features of contexts (B, 1, n_ctx, width)."""
    return text(contexts[:, 0], dtype)


@dataclass(frozen=True)
class Scale:
    """Standard deviation of a layer's text projection, mean and standard deviation of its image projection."""

    text_std: float
    image_mean: float
    image_std: float


def first_scales(config: Config, task: FewShotTask, vision: PromptedVision) -> Scale:
    """Text: std(token embeddings) / (√d_L·σ). Image: the patch embedding's mean and std, as if d_V were its fan-in, times σ."""
    patch, fan_in = vision.patch_weights, vision.patch_weights[0].numel()
    tokens = text_tower(task.backbone).token_embedding.weight.detach()
    return Scale(
        config.std * float(tokens.std()) / (config.intrinsic_dim**0.5 * config.sigma),
        config.std * float(patch.mean()) * fan_in / config.intrinsic_dim_v,
        config.std * float(patch.std()) * (fan_in / config.intrinsic_dim_v) ** 0.5 * config.sigma,
    )


def hidden_scales(
    config: Config, text: DeepText, vision: PromptedVision, p0: Tensor, train: Pictures, layers: int
) -> list[Scale]:
    """Layers 2 to L: std / (√d·σ) of the hidden states that leave a layer in the first forward, where all deep prompts are zero.

    That forward is of the class prompts of `text` and of the first `FIRST_FORWARD` training pictures, whatever the memory limit.
    """
    deep = torch.zeros(1, layers, *p0.shape, dtype=torch.float64)
    deep[0, 0] = p0
    pictures = train[torch.arange(min(FIRST_FORWARD, len(train)))].inputs
    with torch.inference_mode():
        of_text = _stds(lambda watch: text(deep, watch=watch))
        tokens = torch.zeros(1, layers, config.n_visual, vision.width)
        of_image = _stds(lambda watch: vision(vision.embed(pictures), tokens, watch))
    return [
        Scale(
            config.std * of_text[layer] / (config.intrinsic_dim**0.5 * config.sigma),
            0.0,
            config.std * of_image[layer] / (config.intrinsic_dim_v**0.5 * config.sigma),
        )
        for layer in range(1, layers)
    ]


def _stds(forward: Callable[[Callable[[int, Tensor], None]], Tensor]) -> list[float]:
    """Standard deviations of what leaves each layer, clipped to ±3 of themselves five times before."""
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
    generator = torch_generator(config.seed, "projection")

    def draw(rows: int, columns: int, mean: float, std: float) -> Tensor:
        return mean + std * torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    text = [draw(p0.numel(), config.intrinsic_dim, 0.0, scale.text_std) for scale in scales]
    rows = config.n_visual * image_width
    image = [draw(rows, config.intrinsic_dim_v, scale.image_mean, scale.image_std) for scale in scales]
    return JointPrompt(torch.stack(text), torch.stack(image), p0, config.n_visual)


class LayerByLayer:
    """One CMA-ES for each layer, asked in turn; a layer's candidates are scored with the best prompts so far in the others.

    "So far" means the point of the lowest loss seen, zero before the first. S queries a step.
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
        """One generation of one layer. Returns loss (mean of the candidates), best_loss (of the run so far), sigma."""
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
