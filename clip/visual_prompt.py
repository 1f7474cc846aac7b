"""The image tower on prompted images: open_clip's own modules, forward only, with prompt tokens after the patches.

Prompt tokens follow all patch tokens, enter before the first layer norm, and have no positional embedding (BPT-VLM).
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

# tokens per pass on a CPU, whose caches make larger passes no faster
CPU_TOKENS = 1024
# values held per token, in multiples of its width: stream, norm, q k v, output, 4 + 4 of the MLP
LIVE_WIDTHS = 14

Watch = Callable[[int, Tensor], None]


class PromptedVision:
    """Features of images under sets of prompt tokens. Raises UserError if the image tower is not an open_clip ViT."""

    def __init__(self, backbone: Backbone, memory_limit: int):
        """`memory_limit`: bytes that the activations of one pass may take."""
        visual = backbone.model.visual
        if not isinstance(visual, VisionTransformer):
            raise UserError(
                f"--backbone: image prompt tokens require a ViT, and the image tower of {backbone.name} is a "
                f"{type(visual).__name__}; choose another backbone"
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
        """Number of class and patch tokens of an image."""
        return len(self._towers[torch.float32].positional_embedding)

    @property
    def patch_weights(self) -> Tensor:
        """The patch embedding (width, 3, patch, patch)."""
        return self._towers[torch.float32].conv1.weight.detach()

    def embed(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Class and patch tokens (n, 1 + P, width) of preprocessed images (n, 3, H, W), as they enter the first layer norm."""
        tower = self._tower(dtype)
        patches = tower.conv1(images.to(self.device, dtype)).flatten(2).transpose(1, 2)
        first = tower.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([first, patches], 1) + tower.positional_embedding

    def __call__(self, embedded: Tensor, tokens: Tensor, watch: Watch | None = None) -> Tensor:
        """L2-normalized features (B, n, D) of `embedded` images (n, 1 + P, width) under each of B sets of prompt tokens.

        `tokens` (B, L, m, width): the m prompt tokens at the input of each of the first L layers; later layers receive the output
        of the layer before. `watch(layer, tokens (·, 1 + P + m, width))` receives each layer's output, pass by pass.
        """
        B, n = len(tokens), len(embedded)
        tower, tokens = self._tower(embedded.dtype), tokens.to(embedded)
        length = embedded.shape[1] + tokens.shape[2]
        features = []
        # B·n prompted images: number p is image p mod n under set p // n
        for which in torch.arange(B * n, device=self.device).split(self.chunk(length, embedded.dtype)):
            features.append(encode_prompted(tower, embedded[which % n], tokens[which // n], watch))
        return F.normalize(torch.cat(features), dim=-1).view(B, n, -1)

    def chunk(self, length: int, dtype: torch.dtype) -> int:
        """Images of `length` tokens per pass, from the sizes and the memory limit only."""
        heads = self._towers[torch.float32].transformer.resblocks[0].attn.num_heads
        fits = self.memory_limit // (length * (LIVE_WIDTHS * self.width + heads * length) * dtype.itemsize)
        useful = CPU_TOKENS // length if self.device.type == "cpu" else fits
        return max(1, min(fits, useful))

    def _tower(self, dtype: torch.dtype) -> VisionTransformer:
        if dtype not in self._towers:
            self._towers[dtype] = copy.deepcopy(self._towers[torch.float32]).to(dtype)
        return self._towers[dtype]


def encode_prompted(tower: VisionTransformer, embedded: Tensor, tokens: Tensor, watch: Watch | None = None) -> Tensor:
    """Features (n, D) of embedded images (n, 1 + P, width), each with its own prompt tokens (n, L, m, width)."""
    length = embedded.shape[1]
    x = tower.ln_pre(torch.cat([embedded, tokens[:, 0]], 1))
    blocks = tower.transformer.resblocks
    for layer, block in enumerate(blocks):
        if 0 < layer < tokens.shape[1]:
            x = torch.cat([x[:, :length], tokens[:, layer]], 1)
        readout = layer == len(blocks) - 1 and watch is None and _reads_class_token(tower, block)
        x = _first_row(block, x) if readout else block(x)
        if watch is not None:
            watch(layer, x)
    # prompt tokens take part only in attention; pooling receives the same tokens as without them
    pooled, _ = tower._pool(x[:, :length])
    return pooled if tower.proj is None else pooled @ tower.proj


def _reads_class_token(tower: VisionTransformer, block: nn.Module) -> bool:
    return tower.attn_pool is None and tower.pool_type == "tok" and type(block) is ResidualAttentionBlock


def _first_row(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """The class token (n, 1, width) after the last block, which needs no other token's query, output or MLP."""
    normed = block.ln_1(x)
    x = x[:, :1] + block.ls_1(block.attention(normed[:, :1], normed, normed))
    class_token: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return class_token


class ImageTower:
    """Features of unprompted images, by any open_clip tower: L2-normalized (n, D), in the images' dtype."""

    def __init__(self, backbone: Backbone, images_per_pass: int):
        self.device, self.images_per_pass = backbone.device, images_per_pass
        self._models = {torch.float32: backbone.model}

    def __call__(self, images: Tensor) -> Tensor:
        dtype = images.dtype
        if dtype not in self._models:
            self._models[dtype] = copy.deepcopy(self._models[torch.float32]).to(dtype)
        parts = images.to(self.device).split(self.images_per_pass)
        return torch.cat([self._models[dtype].encode_image(part, normalize=True) for part in parts])


def image_tower(backbone: Backbone, images_per_pass: int, memory_limit: int) -> Callable[[Tensor], Tensor]:
    """Features (n, D) of images, L2-normalized, in the images' dtype: by a ViT at its own pass size, or by `ImageTower`."""
    if not isinstance(backbone.model.visual, VisionTransformer):
        return ImageTower(backbone, images_per_pass)
    vision = PromptedVision(backbone, memory_limit)
    no_tokens = torch.zeros(1, 1, 0, vision.width)
    return lambda images: vision(vision.embed(images, images.dtype), no_tokens)[0]
