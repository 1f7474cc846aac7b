"""One block of a folded text tower, in the form that the engines multiply by: matrices in a pass's precision, or packed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from clip.packed import PackedMatrix


class Layer(Protocol):
    """One block. Matrices are (in, out) for `rows @ matrix`; `qkv` holds q, k, v side by side, `b_q` is the bias of q alone.

    `sos`: keys and values (2·width,) of [SOS], which are constant since [SOS] attends only to itself.
    """

    @property
    def qkv(self) -> Tensor: ...
    @property
    def b_q(self) -> Tensor: ...
    @property
    def out(self) -> Tensor: ...
    @property
    def b_out(self) -> Tensor: ...
    @property
    def fc(self) -> Tensor: ...
    @property
    def b_fc(self) -> Tensor: ...
    @property
    def proj(self) -> Tensor: ...
    @property
    def b_proj(self) -> Tensor: ...
    @property
    def sos(self) -> Tensor: ...


@dataclass(frozen=True)
class DenseLayer:
    """A block with its matrices in the precision of the pass."""

    qkv: Tensor
    b_q: Tensor
    out: Tensor
    b_out: Tensor
    fc: Tensor
    b_fc: Tensor
    proj: Tensor
    b_proj: Tensor
    sos: Tensor

    def to(self, dtype: torch.dtype, device: torch.device) -> DenseLayer:
        return DenseLayer(**{f.name: getattr(self, f.name).to(device, dtype).contiguous() for f in fields(self)})


@dataclass(frozen=True)
class PackedLayer:
    """A block whose matrices are unpacked at each use."""

    packed_qkv: PackedMatrix
    packed_out: PackedMatrix
    packed_fc: PackedMatrix
    packed_proj: PackedMatrix
    b_q: Tensor
    b_out: Tensor
    b_fc: Tensor
    b_proj: Tensor
    sos: Tensor

    @property
    def qkv(self) -> Tensor:
        return self.packed_qkv.dense

    @property
    def out(self) -> Tensor:
        return self.packed_out.dense

    @property
    def fc(self) -> Tensor:
        return self.packed_fc.dense

    @property
    def proj(self) -> Tensor:
        return self.packed_proj.dense

    def to(self, dtype: torch.dtype, device: torch.device) -> PackedLayer:
        qkv, out, fc, proj = (
            matrix.to(dtype, device) for matrix in (self.packed_qkv, self.packed_out, self.packed_fc, self.packed_proj)
        )
        vectors = (vector.to(device, dtype) for vector in (self.b_q, self.b_out, self.b_fc, self.b_proj, self.sos))
        return PackedLayer(qkv, out, fc, proj, *vectors)


class Weights(Protocol):
    """A layer's matrices (in, out)."""

    @property
    def q(self) -> Tensor: ...
    @property
    def kv(self) -> Tensor: ...
    @property
    def out(self) -> Tensor: ...
    @property
    def fc(self) -> Tensor: ...
    @property
    def proj(self) -> Tensor: ...


@dataclass(frozen=True)
class DenseWeights:
    q: Tensor
    kv: Tensor
    out: Tensor
    fc: Tensor
    proj: Tensor

    @classmethod
    def of(cls, layer: Layer) -> DenseWeights:
        width = len(layer.qkv)
        return cls(layer.qkv[:, :width].contiguous(), layer.qkv[:, width:].contiguous(), layer.out, layer.fc, layer.proj)


@dataclass(frozen=True)
class PackedWeights:
    """Unpacked at each use."""

    layer: PackedLayer

    @property
    def q(self) -> Tensor:
        return self.layer.qkv[:, : len(self.layer.b_q)]

    @property
    def kv(self) -> Tensor:
        return self.layer.qkv[:, len(self.layer.b_q) :]

    @property
    def out(self) -> Tensor:
        return self.layer.out

    @property
    def fc(self) -> Tensor:
        return self.layer.fc

    @property
    def proj(self) -> Tensor:
        return self.layer.proj
