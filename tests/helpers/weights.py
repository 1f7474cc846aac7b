"""Models with random weights, and files of such weights in the common formats."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from torch import Tensor, nn

import clip.backbone
import clip.checkpoint
from clip.backbone import Backbone

# open_clip's smallest model with its own text tower, GELU
SMALL = "ViT-S-32-alt"


def random_model(architecture: str) -> nn.Module:
    """A model with random weights in every tensor, including those that open_clip initializes to zero or one."""
    model = open_clip.create_model(architecture, pretrained=None).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=generator) * (0.1 if "running" in name else 0.01))
    return model


def features(model: nn.Module) -> tuple[Tensor, Tensor]:
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.encode_image(image), model.encode_text(open_clip.tokenize(["a photo of a red dog."]))


def assert_same_features(loaded: nn.Module, source: nn.Module) -> None:
    for ours, theirs in zip(features(loaded), features(source), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def assert_frozen(backbone: Backbone) -> None:
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())


class Holder(nn.Module):
    """A module with the parts and names of `model` whose own forward is trivial, and so quickly traced."""

    def __init__(self, model: nn.Module):
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.logit_scale


def save_archive(model: nn.Module, path: Path) -> Path:
    torch.jit.trace(Holder(model), torch.ones(1)).save(path)
    return path


def save_tiny_archive(path: Path) -> Path:
    torch.jit.script(nn.Linear(2, 2)).save(path)
    return path


def make_official(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for module in (clip.backbone, clip.checkpoint):
        monkeypatch.setattr(module, "official_hashes", lambda: frozenset({digest}))


class Evil:
    """Its pickle, when loaded, creates the file `marker`."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.marker,)
