"""The graphs: 8-bit pixels → image features, and 8-bit pixels → logits, for any batch size."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.transforms import Normalize, Resize

from clip.visual_prompt import encode_prompted
from trainers.baselines.blackvip.problem import SavedPrompt, read_prompt
from trainers.baselines.craft import Adapter
from trainers.classifier import Classifier, unfilled_task
from utils.errors import UserError

BATCH = 2


def preprocessing(classifier: Classifier) -> dict[str, Any]:
    """CLIP's transform as numbers. `resample`: Pillow's constant. Raises UserError for a transform that is not a plain resize."""
    steps: list[Any] = getattr(classifier.backbone.preprocess, "transforms", [])
    first, last = next((step for step in steps if isinstance(step, Resize)), None), next(reversed(steps), None)
    if first is None or not isinstance(last, Normalize):
        raise UserError(f"--backbone: {classifier.backbone.name}: its transform is not a resize and a normalization")
    height, width = classifier.backbone.image_size
    resize = "shortest" if isinstance(first.size, int) or len(first.size) == 1 else "squash"
    resample = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}[first.interpolation.value]
    return {
        "size": [height, width],
        "resize": resize,
        "interpolation": first.interpolation.value,
        "resample": resample,
        "mean": [float(value) for value in last.mean],
        "std": [float(value) for value in last.std],
    }


class ImageEncoder(nn.Module):
    """L2-normalized features (n, D) of 8-bit pixels (n, H, W, 3)."""

    mean: Tensor
    std: Tensor

    def __init__(self, tower: nn.Module, mean: list[float], std: list[float]):
        super().__init__()
        self.tower = tower
        self.register_buffer("mean", 255 * torch.tensor(mean)[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(std)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        pictures = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return F.normalize(self.tower(pictures), dim=-1)


class PromptedTower(nn.Module):
    """BPT-VLM's image tower: its prompt tokens (L, m, width) follow the patches."""

    tokens: Tensor

    def __init__(self, visual: VisionTransformer, tokens: Tensor):
        super().__init__()
        self.visual = visual
        self.register_buffer("tokens", tokens.float())

    def forward(self, pictures: Tensor) -> Tensor:
        patches = self.visual.conv1(pictures).flatten(2).transpose(1, 2)
        # len() of a tensor would write the example's batch size into the graph
        n = pictures.shape[0]
        embedded = torch.cat([self.visual.class_embedding.expand(n, 1, -1), patches], 1) + self.visual.positional_embedding
        return encode_prompted(self.visual, embedded, self.tokens.expand(n, -1, -1, -1))


class PromptedPixels(nn.Module):
    """BlackVIP's image tower: a second encoder and the decoder make a prompt of each image, which is added to its pixels."""

    W: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, visual: nn.Module, prompt: SavedPrompt):
        super().__init__()
        self.visual, self.encoder = visual, prompt.encoder.module
        self.register_buffer("W", prompt.W)
        for i, (mean, variance) in enumerate(prompt.statistics):
            self.register_buffer(f"mean_{i}", mean)
            self.register_buffer(f"variance_{i}", variance)
        for name, bound in zip(("low", "high"), prompt.model.valid_range, strict=True):
            self.register_buffer(name, bound.float())
        self._encode, self._decoder, self._epsilon = prompt.encoder.encode, prompt.model.decoder, prompt.model.epsilon

    def forward(self, pictures: Tensor) -> Tensor:
        blocks = range(len(self._decoder.blocks))
        statistics = [(getattr(self, f"mean_{i}"), getattr(self, f"variance_{i}")) for i in blocks]
        prompts, _ = self._decoder(self.W, self._encode(pictures), statistics)
        prompted: Tensor = self.visual(torch.clamp(pictures + self._epsilon * prompts[0], self.low, self.high))
        return prompted


class Head(nn.Module):
    """Logits (n, K) of features (n, D): the weights (K, D) hold the logit scale; CraFT's adapter is added where there is one."""

    weights: Tensor

    def __init__(self, weights: Tensor, adapter: nn.Module | None):
        super().__init__()
        self.register_buffer("weights", weights)
        self.adapter = adapter

    def forward(self, features: Tensor) -> Tensor:
        logits = features @ self.weights.T
        return logits if self.adapter is None else logits + self.adapter(logits)


def build(classifier: Classifier) -> tuple[ImageEncoder, Head]:
    """The two halves of the classifier. Raises UserError for a prompt that cannot be exported."""
    trainer = "zero-shot" if classifier.zero_shot else classifier.about["prompt_trainer"]
    text = classifier.scorer.text
    if text is None:
        raise UserError(f"{classifier.config.load_prompt}: {trainer} has no text features, which the exported head is made of")
    how = preprocessing(classifier)
    tower, adapter = classifier.backbone.model.visual, None
    if trainer == "bpt-vlm":
        tower = PromptedTower(tower, classifier.tensors["visual_tokens"])
    if trainer == "blackvip":
        task = unfilled_task(classifier.backbone, classifier.classnames)
        tower = PromptedPixels(tower, read_prompt(classifier.config, task, classifier.tensors))
    if trainer == "craft":
        adapter = Adapter(len(classifier.classnames), hidden=classifier.config.adapter_dim, generator=torch.Generator())
        prefix = "adapter."
        state = {key.removeprefix(prefix): value for key, value in classifier.tensors.items() if key.startswith(prefix)}
        adapter.load_state_dict(state)
    weights = (classifier.backbone.logit_scale * text.double()).float()
    encoder, head = ImageEncoder(tower, how["mean"], how["std"]), Head(weights.clone(), adapter)
    return encoder.eval().cpu(), head.eval().cpu()


def write_onnx(module: nn.Module, size: tuple[int, int], output: str, path: Path) -> None:
    """Writes the module as one ONNX file with a free batch dimension: `pixels` (n, H, W, 3) uint8 → `output` float32."""
    # a graph traced at batch 1 would hold the 1
    example = torch.zeros(BATCH, *size, 3, dtype=torch.uint8)
    with quietly(), torch.no_grad():
        torch.onnx.export(
            module,
            (example,),
            path,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1 << 16)},),
            input_names=["pixels"],
            output_names=[output],
            external_data=False,
            verbose=False,
        )


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """The exporter's remarks on its own deprecations and passes are not the user's."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
