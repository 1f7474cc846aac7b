"""Reference networks in torch's and open_clip's own modules, and a CLIP with a ResNet, for tests of the image side."""

from __future__ import annotations

import copy

import torch
from open_clip.model import CLIP
from torch import Tensor, nn

from clip.backbone import Backbone
from tests.conftest import make_tiny_backbone
from trainers.baselines.blackvip.decoder import Decoder


def make_resnet() -> Backbone:
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    tiny = make_tiny_backbone()
    model = CLIP(24, vision, text).eval().requires_grad_(False)
    return Backbone("tiny-resnet", model, tiny.tokenizer, tiny.preprocess, tiny.device)


def prompted_features(backbone: Backbone, images: Tensor, prompt: Tensor) -> Tensor:
    """open_clip's encode_image in float64, with tokens (L, m, width) put into the inputs of its modules on the way."""
    model = copy.deepcopy(backbone.model).double()
    prompt = prompt.expand(len(images), *prompt.shape)

    def append(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (torch.cat([args[0], prompt[:, 0]], 1),)

    model.visual.ln_pre.register_forward_pre_hook(append)
    for layer in range(1, prompt.shape[1]):

        def exchange(module: nn.Module, args: tuple[Tensor], layer: int = layer) -> tuple[Tensor]:
            return (torch.cat([args[0][:, : -prompt.shape[2]], prompt[:, layer]], 1),)

        model.visual.transformer.resblocks[layer].register_forward_pre_hook(exchange)
    with torch.no_grad():
        return model.encode_image(images.double(), normalize=True)


class ReferenceDecoder(nn.Module):
    """The decoder in torch's own layers, from BlackVIP's table of blocks."""

    def __init__(self, decoder: Decoder, table: tuple[tuple[int, int, int, int], ...], trigger: int, start: int):
        super().__init__()
        self.start = start
        self.trigger = nn.Parameter(torch.empty(trigger))
        self.blocks = nn.ModuleList()
        for channels, middle, groups, out in table:
            block = nn.Module()
            block.up = nn.ConvTranspose2d(channels, middle, 2, stride=2, groups=groups)
            block.mix = nn.ConvTranspose2d(middle, out, 1, bias=False)
            block.norm = nn.BatchNorm2d(out)
            self.blocks.append(block)
        self.last = nn.ConvTranspose2d(16, 3, 2, stride=2, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        x = torch.cat([z, self.trigger.expand(len(z), -1)], 1).reshape(len(z), -1, self.start, self.start)
        for block in self.blocks:
            x = nn.functional.gelu(block.norm(block.mix(block.up(x))))
        return self.last(x)
