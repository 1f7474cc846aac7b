"""BlackVIP's coordinator (Oh et al., CVPR 2023): from an encoder's feature of an image to a prompt of the image's size.

Decoder and trigger form one parameter vector: the trigger; for each block the up-convolution's weight and bias, the 1×1
convolution's weight, and the batch norm's gain and bias; finally the weight of the convolution to three channels. All
convolutions are transposed. At 224 pixels with a 768-wide encoder, the vector has 9,920 entries.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.errors import UserError

EPS = 1e-5
TRIGGER_HIGH = 0.1


class Block(NamedTuple):
    """2×2 up-convolution of stride 2 from `channels` to `middle` in `groups`, then 1×1 to `out`, batch norm, GELU."""

    channels: int
    middle: int
    groups: int
    out: int


BLOCKS = (Block(32, 64, 32, 64), Block(64, 64, 64, 32), Block(32, 32, 32, 32), Block(32, 32, 32, 16))

PARTS = ("up.weight", "up.bias", "mix.weight", "norm.weight", "norm.bias")

# mean and biased variance (B, channels) of each block's batch norm
Statistics = list[tuple[Tensor, Tensor]]


class Decoder:
    """Computes the prompts of B decoders at once, from their parameter vectors.

    The image side of `side` pixels is reached by doubling: five times, as published, or fewer times, without the first blocks,
    if the first grid would have fewer than 4 × 4 cells. The first grid is [z, trigger] with 32 channels, as published, or more
    if z (n, `z_dim`) would leave no room for a trigger. Raises UserError for sizes that doubling cannot reach.
    """

    def __init__(self, side: int, *, z_dim: int):
        doublings = max((k for k in range(2, len(BLOCKS) + 2) if side % 2**k == 0 and side >> k >= 4), default=0)
        if not doublings:
            raise UserError(
                f"--backbone: cannot build a visual prompt of {side} × {side} pixels by doubling; choose a backbone whose input "
                "size is divisible by 4"
            )
        first, *others = BLOCKS[len(BLOCKS) + 1 - doublings :]
        self.side, self.z_dim, self.start = side, z_dim, side >> doublings
        channels = first.channels
        while channels * self.start**2 <= z_dim:
            channels += first.groups
        self.blocks = (first._replace(channels=channels), *others)
        self.trigger = channels * self.start**2 - z_dim
        self.shapes = {"trigger": (self.trigger,)} | self._block_shapes() | {"last.weight": (BLOCKS[-1].out, 3, 2, 2)}

    def _block_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for i, block in enumerate(self.blocks):
            shapes[f"blocks.{i}.up.weight"] = (block.channels, block.middle // block.groups, 2, 2)
            shapes[f"blocks.{i}.up.bias"] = (block.middle,)
            shapes[f"blocks.{i}.mix.weight"] = (block.middle, block.out, 1, 1)
            shapes[f"blocks.{i}.norm.weight"] = (block.out,)
            shapes[f"blocks.{i}.norm.bias"] = (block.out,)
        return shapes

    @property
    def d(self) -> int:
        """Number of trained parameters."""
        return sum(map(math.prod, self.shapes.values()))

    def parameters(self, W: Tensor) -> dict[str, Tensor]:
        """Every parameter (B, *shape) of W (B, d)."""
        parts = W.split([math.prod(shape) for shape in self.shapes.values()], dim=1)
        return {name: part.reshape(len(W), *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def initial(self, generator: torch.Generator) -> Tensor:
        """The initial vector (d,) float64: trigger U(0, 0.1), convolutions U(±1/√fan-in) as in torch, gains 1, biases 0."""
        parts = []
        for name, shape in self.shapes.items():
            uniform = torch.rand(math.prod(shape), generator=generator, dtype=torch.float64)
            if name == "trigger":
                parts.append(TRIGGER_HIGH * uniform)
            elif ".norm." in name:
                parts.append(torch.full_like(uniform, float(name.endswith("weight"))))
            else:
                # torch takes a transposed convolution's outputs as its fan-in; a bias has the range of its weight
                fan_in = math.prod(self.shapes[name.replace("bias", "weight")][1:])
                parts.append((2 * uniform - 1) / math.sqrt(fan_in))
        return torch.cat(parts)

    def __call__(self, W: Tensor, z: Tensor, statistics: Statistics | None = None) -> tuple[Tensor, Statistics]:
        """Prompts (B, n, 3, side, side) of features z (n, z_dim) by the decoders W (B, d), in W's dtype.

        The batch norms use `statistics`, or by default those of z itself under each decoder. Also returns the statistics used.
        """
        parameters = self.parameters(W)
        x, used = self._first_grid(parameters["trigger"], z.to(W)), []
        for i, block in enumerate(self.blocks):
            block_parameters = {name: parameters[f"blocks.{i}.{name}"] for name in PARTS}
            kernel, offset = _merge(
                block_parameters["up.weight"], block_parameters["up.bias"], block_parameters["mix.weight"], block
            )
            mean, variance = _moments(x, kernel) if statistics is None else (statistics[i][0] - offset, statistics[i][1])
            used.append((mean + offset, variance))
            gain = block_parameters["norm.weight"] * torch.rsqrt(variance + EPS)
            shift = block_parameters["norm.bias"] - mean * gain
            x = _unfold(F.gelu(_up(x, kernel * gain[:, None, None], shift)))
        last = parameters["last.weight"].permute(0, 1, 3, 4, 2).flatten(2, 3)
        x = _unfold(_up(x, last, last.new_zeros(len(last), 3)))
        return x.permute(0, 1, 4, 2, 3), used

    def _first_grid(self, trigger: Tensor, z: Tensor) -> Tensor:
        """[z, trigger] as an image with channels last, (B, n, start, start, channels)."""
        # len() of a tensor would fix the number of images in an exported graph
        B, n = trigger.shape[0], z.shape[0]
        together = torch.cat([z.expand(B, n, -1), trigger[:, None].expand(B, n, -1)], dim=2)
        return together.view(B, n, -1, self.start, self.start).permute(0, 1, 3, 4, 2)


def _merge(up: Tensor, bias: Tensor, mix: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """Up-convolution and 1×1 convolution as one product: kernel (B, channels, 4, out) and offset (B, out).

    This is exact: no nonlinearity separates them, and the 2×2 patches of stride 2 do not overlap.
    """
    inputs, outputs = block.channels // block.groups, block.middle // block.groups
    up = up.reshape(len(up), block.groups, inputs, outputs, 4)
    mix = mix.reshape(len(mix), block.groups, outputs, block.out)
    kernel = torch.einsum("bgimp,bgmo->bgipo", up, mix).flatten(1, 2)
    return kernel, torch.einsum("bm,bmo->bo", bias, mix.flatten(1, 2))


def _moments(x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (B, out) of the patches that `_up` makes, from the mean and covariance of x's channels.

    The patches themselves are not needed, and summing over their many rows would take longer than computing them.
    """
    rows = x.flatten(1, 3)
    ones = rows.new_ones(len(rows), 1, rows.shape[1]) / rows.shape[1]
    center = ones @ rows
    rows = rows - center
    covariance = rows.transpose(1, 2) @ rows / rows.shape[1]
    corners = (center @ kernel.flatten(2)).view(len(kernel), *kernel.shape[2:])
    within = torch.einsum("bcpo,bcd,bdpo->bpo", kernel, covariance, kernel)
    mean = corners.mean(1)
    return mean, (within + (corners - mean[:, None]).square()).mean(1)


def _up(x: Tensor, kernel: Tensor, shift: Tensor) -> Tensor:
    """The 2×2 patches (B, n, h, w, 4, out) into which x (B, n, h, w, channels) expands, plus `shift` (B, out)."""
    patches = torch.baddbmm(shift.repeat(1, 4)[:, None], x.flatten(1, 3), kernel.flatten(2))
    return patches.view(*x.shape[:4], *kernel.shape[2:])


def _unfold(patches: Tensor) -> Tensor:
    """Patches (B, n, h, w, 4, out) side by side: (B, n, 2h, 2w, out)."""
    B, n, h, w, _, out = patches.shape
    return patches.view(B, n, h, w, 2, 2, out).transpose(3, 4).reshape(B, n, 2 * h, 2 * w, out)
