"""BPT-VLM (Yu et al., IJCAI 2023): prompt tokens of both towers from one vector, by CMA-ES.

Shallow: w = [w_L, w_V]; text tokens A_L·w_L at the context's positions, image tokens A_V·w_V after the patches. Deep: one such
vector per layer, each with its own CMA-ES; the layers take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor

from clip.deep_text import DeepText
from clip.prompt import initial_context, placeholder_words
from clip.visual_prompt import PromptedVision
from trainers.baselines.joint_prompt import FIRST_FORWARD, JointPrompt, draw_projections, first_scales, hidden_scales
from trainers.blackbox.batches import FullBatch
from trainers.blackbox.cmaes import CMAES, NaiveCMAES, configured_cmaes, naive_cmaes
from trainers.blackbox.criteria import criterion
from trainers.blackbox.gradients import LossFunction
from trainers.blackbox.images import image_sets
from trainers.blackbox.objective import Objective
from trainers.blackbox.problem import Problem, text_features
from trainers.blackbox.task import FewShotTask
from trainers.blackbox.text_prompt import SHARE_OF_FEATURES
from trainers.saved import Scorer
from utils.errors import UserError
from utils.seeds import torch_generator
from utils.settings import Config

Encode = Callable[[Tensor, torch.dtype], Tensor]


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
