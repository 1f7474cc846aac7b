"""The image tower on pictures that a method changes: open_clip's own modules, forward only, with prompt tokens among the patches.

Prompt tokens stand behind all patch tokens, from before the first layer norm on, without a positional embedding (BPT-VLM).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from clip.backbone import Backbone
from utils.errors import UserError

# token rows that share a pass on a CPU: more gains nothing on its caches
CPU_ROWS = 1024
# values a token row keeps alive, in multiples of its width: stream, norm, q k v, output, 4 + 4 of the MLP
LIVE_WIDTHS = 14

Watch = Callable[[int, Tensor], None]


class PromptedVision:
    """Features of pictures under sets of prompt tokens. Raises UserError for an image tower that is no open_clip ViT."""

    def __init__(self, backbone: Backbone, memory_limit: int):
        """`memory_limit`: bytes that the activations of one pass may take."""
        visual = backbone.model.visual
        if not isinstance(visual, VisionTransformer):
            raise UserError(
                f"--backbone: {backbone.name}: image prompt tokens need a ViT, and its image tower is a {type(visual).__name__}"
            )
        self.memory_limit, self.device = memory_limit, backbone.device
        self._towers = {torch.float32: visual}

    @property
    def width(self) -> int:
        return self._towers[torch.float32].conv1.out_channels

    @property
    def layers(self) -> int:
        return len(self._towers[torch.float32].transformer.resblocks)

    @property
    def tokens(self) -> int:
        """Class and patch tokens of a picture."""
        return len(self._towers[torch.float32].positional_embedding)

    @property
    def patch_weights(self) -> Tensor:
        """The patch embedding (width, 3, patch, patch)."""
        return self._towers[torch.float32].conv1.weight.detach()

    def embed(self, pictures: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Class and patch tokens (n, 1 + P, width) of preprocessed pictures (n, 3, H, W), as they enter the first layer norm."""
        tower = self._tower(dtype)
        patches = tower.conv1(pictures.to(self.device, dtype)).flatten(2).transpose(1, 2)
        first = tower.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([first, patches], 1) + tower.positional_embedding

    def __call__(self, embedded: Tensor, tokens: Tensor, watch: Watch | None = None) -> Tensor:
        """L2-normalized features (B, n, D) of `embedded` pictures (n, 1 + P, width) under each of B sets of prompt tokens.

        `tokens` (B, L, m, width): what the m prompt tokens are at the input of the first L layers; further on they are what the
        layers make of them. `watch(layer, tokens (·, 1 + P + m, width))` sees what leaves a layer, pass by pass.
        """
        B, n = len(tokens), len(embedded)
        tower, tokens = self._tower(embedded.dtype), tokens.to(embedded)
        rows = embedded.shape[1] + tokens.shape[2]
        features = []
        # B·n prompted pictures: number p is picture p mod n under set p // n
        for which in torch.arange(B * n, device=self.device).split(self.chunk(rows, embedded.dtype)):
            features.append(_encode(tower, embedded[which % n], tokens[which // n], watch))
        return F.normalize(torch.cat(features), dim=-1).view(B, n, -1)

    def chunk(self, rows: int, dtype: torch.dtype) -> int:
        """Pictures of `rows` tokens that share a pass; follows from sizes and the memory limit alone."""
        heads = self._towers[torch.float32].transformer.resblocks[0].attn.num_heads
        fits = self.memory_limit // (rows * (LIVE_WIDTHS * self.width + heads * rows) * dtype.itemsize)
        useful = CPU_ROWS // rows if self.device.type == "cpu" else fits
        return max(1, min(fits, useful))

    def _tower(self, dtype: torch.dtype) -> VisionTransformer:
        if dtype not in self._towers:
            self._towers[dtype] = copy.deepcopy(self._towers[torch.float32]).to(dtype)
        return self._towers[dtype]


def _encode(tower: VisionTransformer, embedded: Tensor, tokens: Tensor, watch: Watch | None) -> Tensor:
    """Features (n, D) of embedded pictures (n, 1 + P, width), each with its own prompt tokens (n, L, m, width)."""
    own = embedded.shape[1]
    x = tower.ln_pre(torch.cat([embedded, tokens[:, 0]], 1))
    blocks = tower.transformer.resblocks
    for layer, block in enumerate(blocks):
        if 0 < layer < tokens.shape[1]:
            x = torch.cat([x[:, :own], tokens[:, layer]], 1)
        readout = layer == len(blocks) - 1 and watch is None and _reads_class_token(tower, block)
        x = _first_row(block, x) if readout else block(x)
        if watch is not None:
            watch(layer, x)
    # prompt tokens take part in attention alone: pooling sees what it sees without them
    pooled, _ = tower._pool(x[:, :own])
    return pooled if tower.proj is None else pooled @ tower.proj


def _reads_class_token(tower: VisionTransformer, block: nn.Module) -> bool:
    return tower.attn_pool is None and tower.pool_type == "tok" and type(block) is ResidualAttentionBlock


def _first_row(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """The class token (n, 1, width) behind the last block, which needs no other token's query, output or MLP."""
    seen = block.ln_1(x)
    x = x[:, :1] + block.ls_1(block.attention(seen[:, :1], seen, seen))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


class ImageTower:
    """Features of pictures as they are, by any tower that open_clip has: L2-normalized (n, D) in the pictures' dtype."""

    def __init__(self, backbone: Backbone, images_per_pass: int):
        self.device, self.images_per_pass = backbone.device, images_per_pass
        self._models = {torch.float32: backbone.model}

    def __call__(self, pictures: Tensor) -> Tensor:
        dtype = pictures.dtype
        if dtype not in self._models:
            self._models[dtype] = copy.deepcopy(self._models[torch.float32]).to(dtype)
        parts = pictures.to(self.device).split(self.images_per_pass)
        return torch.cat([self._models[dtype].encode_image(part, normalize=True) for part in parts])


def image_tower(backbone: Backbone, images_per_pass: int, memory_limit: int) -> Callable[[Tensor], Tensor]:
    """Features (n, D) of pictures, L2-normalized, in the pictures' dtype: by a ViT at its own pass size, or by `ImageTower`."""
    if not isinstance(backbone.model.visual, VisionTransformer):
        return ImageTower(backbone, images_per_pass)
    vision = PromptedVision(backbone, memory_limit)
    nothing = torch.zeros(1, 1, 0, vision.width)
    return lambda pictures: vision(vision.embed(pictures, pictures.dtype), nothing)[0]
