"""BlackVIP's second frozen network: a pretrained encoder whose image features are the coordinator's input."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.backbone import Backbone, quiet_hub
from utils.errors import UserError
from utils.seeds import torch_generator

RANDOM = "@random"


@dataclass(frozen=True)
class Encoder:
    """Computes z (n, dim) float32 of CLIP-normalized images (n, 3, H, W). `module`: the network that `encode` runs."""

    dim: int
    encode: Callable[[Tensor], Tensor]
    module: nn.Module

    def __call__(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.encode(images)


def load_encoder(name: str, backbone: Backbone, seed: int) -> Encoder:
    """The encoder that `--pt_backbone` names: "clip", a timm model with its pretrained weights, or NAME@random.

    "clip" uses CLIP's own image feature before normalization. A timm ViT yields its class token before the last layer norm, any
    other timm model its pooled feature; images are resized to the model's input size. Raises UserError for a name unknown to
    timm and for weights that cannot be downloaded or read.
    """
    if name == "clip":
        visual = backbone.model.visual
        return Encoder(visual.output_dim, lambda images: backbone.model.encode_image(images.to(backbone.device)), visual)
    # timm's models share no base class with these attributes
    model: Any = _timm_model(name, seed).to(backbone.device).eval().requires_grad_(False)
    input_size = model.default_cfg["input_size"][1:]
    by_class_token = getattr(model, "cls_token", None) is not None
    if by_class_token:
        model.norm = nn.Identity()

    def encode(images: Tensor) -> Tensor:
        images = images.to(backbone.device)
        if images.shape[2:] != input_size:
            images = F.interpolate(images, size=input_size, mode="bicubic", antialias=True)
        features: Tensor = model.forward_features(images)[:, 0] if by_class_token else model(images)
        return features

    return Encoder(model.num_features, encode, model)


def _timm_model(name: str, seed: int) -> nn.Module:
    # timm takes a second to import, and only this encoder uses it
    import timm

    architecture = name.removesuffix(RANDOM)
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        names = f"similar names: {', '.join(close)}" if close else "timm.list_models() lists its names"
        raise UserError(f"--pt_backbone: timm has no model {architecture!r}; {names}")
    quiet_hub()
    # timm initializes a new model from the global generator, whose state is restored
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(seed, "random encoder").initial_seed())
        try:
            return timm.create_model(architecture, pretrained=not name.endswith(RANDOM), num_classes=0)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"--pt_backbone: the weights of {architecture} could not be downloaded or read ({error}); copy them into the "
                f"Hugging Face cache from another machine, or use clip or {architecture.partition('.')[0]}{RANDOM}"
            ) from error
