"""Tunes any black box, a function from vectors to losses, with SharpZO: no CLIP, no images."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from trainers.sharpzo.algorithm import ChangeAt, SharpZO
from trainers.sharpzo.build import build_stage1, build_stage2
from utils.settings import Config


def black_box(W: torch.Tensor, mu: float | None = None) -> torch.Tensor:
    """Losses (B,) float64 of points W (B, d): Rosenbrock's function. `mu` is how far apart the points are."""
    return (100 * (W[:, 1:] - W[:, :-1] ** 2) ** 2 + (1 - W[:, :-1]) ** 2).sum(1)


config = Config(seed=1, popsize=16, sigma=0.4, rho=0.01, zo_lr=1e-4, prune_ratio=0.25, prune_interval=50)
start = torch.zeros(6, dtype=torch.float64)
optimizer = SharpZO(build_stage1(config, start), build_stage2(config, start), change=ChangeAt(120))
for step in range(400):
    figures = optimizer.step(black_box)  # type: ignore[arg-type]  # this method takes no derivatives
    if step % 100 == 99:
        print(f"step {step + 1}, stage {optimizer.stage}: loss {float(black_box(optimizer.solution[None])):.5f}")
print(f"start {float(black_box(start[None])):.5f}, end {float(black_box(optimizer.solution[None])):.5f}")
