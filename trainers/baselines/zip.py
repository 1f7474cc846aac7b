"""ZIP's prompt (Park et al., ICLR 2025): context tokens moved by a low-rank matrix through fixed Fastfood maps.

For context token i, θ_i = θ0_i + M_i v_i with [v_1 … v_m]ᵀ = U diag(s) Vᵀ + 1 v_shᵀ. The parameters are, in this order,
U (m, r), s (r,), V (q, r) and v_sh (q,): δ = r (m + q + 1) + q numbers, 417 for m = 8, q = 62, r = 5. The optimizer is SPSA with
intrinsic-dimensional clipping, in trainers/zeroth_order/spsa.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainers.blackbox.batches import mini_batches
from trainers.blackbox.problem import Problem, text_and_context, text_problem
from trainers.blackbox.task import FewShotTask
from utils.errors import UserError
from utils.seeds import torch_generator
from utils.settings import Config


class LowRankContext:
    """Contexts (B, m, width) of parameter vectors (B, δ). `theta0` (m, width) and `maps` (m, width, q) are fixed, float64."""

    def __init__(self, theta0: Tensor, *, maps: Tensor, rank: int):
        self.theta0, self.maps, self.rank = theta0, maps, rank
        self.m, _, self.q = maps.shape
        self.sizes = (self.m * rank, rank, self.q * rank, self.q)

    @property
    def d(self) -> int:
        """δ, the number of trained parameters."""
        return sum(self.sizes)

    def __call__(self, W: Tensor) -> Tensor:
        U, s, V, shared = W.to(self.maps).split(self.sizes, dim=1)
        U, V = U.view(-1, self.m, self.rank), V.view(-1, self.q, self.rank)
        # one row v_i per token: the token's own part plus the part shared by all tokens
        v = (U * s[:, None]) @ V.transpose(1, 2) + shared[:, None]
        return self.theta0 + torch.einsum("mpq,bmq->bmp", self.maps, v)

    def initial(self, generator: torch.Generator) -> Tensor:
        """The initial parameters (δ,): U = 0, s = 1, V ~ N(0, 1), v_sh = 0, for which the prompt is θ0 itself."""
        U, s, V, shared = self.sizes
        normal = torch.randn(V, generator=generator, dtype=torch.float64)
        zeros, ones = torch.zeros(U + shared, dtype=torch.float64), torch.ones(s, dtype=torch.float64)
        return torch.cat([zeros[:U], ones, normal, zeros[U:]])


def hadamard(size: int) -> Tensor:
    """The unnormalized Walsh-Hadamard matrix (size, size), size a power of 2."""
    H = torch.ones(1, 1, dtype=torch.float64)
    while len(H) < size:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)], 0)
    return H


def fastfood_map(width: int, q: int, generator: torch.Generator) -> Tensor:
    """A random map (width, q), q ≤ width: H·G·Π·H·B, its first `width` rows and q columns, over √(L·ΣG²)·√(width/L).

    B: random signs, Π: a permutation, G: diagonal N(0, 1), H: Hadamard matrix of size L, the next power of 2. Columns have norm 1
    if width = L.
    """
    L = 2 ** math.ceil(math.log2(width))
    signs = 1.0 - 2.0 * torch.randint(2, (L,), generator=generator, dtype=torch.float64)
    permutation = torch.randperm(L, generator=generator)
    gains = torch.randn(L, generator=generator, dtype=torch.float64)
    H = hadamard(L)
    full = H @ (gains[:, None] * (H * signs)[permutation][:, :q])
    return full[:width] / torch.sqrt(L * gains.square().sum()) / math.sqrt(width / L)


def problem(config: Config, task: FewShotTask) -> Problem:
    """ZIP's parameters on mini-batches of the training images. Raises UserError for an `--intrinsic_dim` out of range."""
    text, theta0 = text_and_context(config, task)
    m, width = theta0.shape
    q = config.intrinsic_dim // m
    if not 0 < q <= width:
        raise UserError(
            f"--intrinsic_dim: {config.intrinsic_dim} over {m} context tokens is {q} per token, which must be 1 to {width}; "
            f"choose {m} to {(width + 1) * m - 1}"
        )
    generator = torch_generator(config.seed, "Fastfood maps")
    maps = torch.stack([fastfood_map(width, q, generator) for _ in range(m)])
    context = LowRankContext(theta0, maps=maps, rank=config.rank)
    return text_problem(
        config,
        task,
        text=text,
        contexts=context,
        initial=context.initial(torch_generator(config.seed, "first w")),
        extra_tensors=lambda w: {"theta0": theta0, "maps": maps},
        batches=mini_batches(config, task),
    )
