"""Writes an optimizer, evolution by random search with a shrinking step, and runs it on a quadratic black box."""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from trainers.optimizer import SinglePointOptimizer


class RandomSearch(SinglePointOptimizer):
    """Queries `size` points around w and moves to the best of them; a step without progress halves the radius."""

    def __init__(self, w0: torch.Tensor, *, size: int, radius: float, seed: int):
        super().__init__(w0, queries=size + 1)
        self.size, self.radius = size, radius
        self.generator = torch.Generator().manual_seed(seed)

    def step(self, objective: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        noise = torch.randn(self.size, len(self.w), generator=self.generator, dtype=self.w.dtype)
        points = torch.cat([self.w[None], self.w + self.radius * noise])
        losses = objective(points)
        best = int(losses.argmin())
        self.w, self.radius = points[best], self.radius if best else self.radius / 2
        return {"loss": float(losses[best]), "radius": self.radius}


target = torch.linspace(-1, 1, 8, dtype=torch.float64)
optimizer = RandomSearch(torch.zeros(8, dtype=torch.float64), size=16, radius=0.5, seed=1)
print(f"60 steps need {optimizer.num_queries(60)} queries")
for _ in range(60):
    figures = optimizer.step(lambda W: (W - target).square().sum(1))
print(f"loss {figures['loss']:.6f}")
