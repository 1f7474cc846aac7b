"""BlackVIP's second frozen network: a pretrained encoder that gives its coordinator a feature of each picture."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.backbone import Backbone, quiet_hub
from utils.errors import UserError
from utils.seeds import torch_generator

RANDOM = "@random"


@dataclass(frozen=True)
class Encoder:
    """z (n, dim) float32 of CLIP-normalized pictures (n, 3, H, W)."""

    dim: int
    encode: Callable[[Tensor], Tensor]

    def __call__(self, pictures: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.encode(pictures)


def load_encoder(name: str, backbone: Backbone, seed: int) -> Encoder:
    """The encoder that `--pt_backbone` names: "clip", a timm model with its pretrained weights, or NAME@random.

    "clip" is CLIP's own image feature before it is normalized. A timm ViT gives its class token before the last layer norm,
    another timm model its pooled feature; pictures are resized to what it takes. Raises UserError for a name that timm does not
    know and for weights that cannot be had.
    """
    if name == "clip":
        visual = backbone.model.visual
        return Encoder(visual.output_dim, lambda pictures: backbone.model.encode_image(pictures.to(backbone.device)))
    model = _timm_model(name, seed).to(backbone.device).eval().requires_grad_(False)
    side = model.default_cfg["input_size"][1:]
    by_class_token = getattr(model, "cls_token", None) is not None
    if by_class_token:
        model.norm = nn.Identity()

    def encode(pictures: Tensor) -> Tensor:
        pictures = pictures.to(backbone.device)
        if pictures.shape[2:] != side:
            pictures = F.interpolate(pictures, size=side, mode="bicubic", antialias=True)
        return model.forward_features(pictures)[:, 0] if by_class_token else model(pictures)

    return Encoder(model.num_features, encode)


def _timm_model(name: str, seed: int) -> nn.Module:
    import timm

    architecture = name.removesuffix(RANDOM)
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        near = f"; near it: {', '.join(close)}" if close else ""
        raise UserError(f"--pt_backbone: timm has no model {architecture!r}{near}")
    quiet_hub()
    # timm fills a new model from the global generator, which gets its state back
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(seed, "random encoder").initial_seed())
        try:
            return timm.create_model(architecture, pretrained=not name.endswith(RANDOM), num_classes=0)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"--pt_backbone: the weights of {architecture} could not be downloaded or read ({error}); copy them into the "
                f"Hugging Face cache from another machine, or use clip or {architecture.partition('.')[0]}{RANDOM}"
            ) from error
