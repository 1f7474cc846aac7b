# %% [markdown]
# # SharpZO from scratch, on your own black box
#
# A black box is a function that takes points W (B, d) and returns B losses, and nothing else: no gradient, no formula.
# This page writes the two stages of SharpZO step by step for a toy function, and then runs the classes of the repository on the same function.

# %%
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cma
import numpy as np
import torch
from matplotlib.figure import Figure

from trainers.sharpzo.algorithm import ChangeAt, SharpZO
from trainers.sharpzo.build import build_stage1, build_stage2
from utils.settings import Config

D = 20


def black_box(W: torch.Tensor, mu: float | None = None) -> torch.Tensor:
    """Losses (B,) of points W (B, d): a bowl, long in some directions, with ripples. Half of the coordinates matter little."""
    weights = torch.logspace(0, -2, D, dtype=torch.float64)
    offset = W - torch.linspace(-1, 1, D, dtype=torch.float64)
    return (weights * (offset.square() + 0.2 * (1 - torch.cos(3 * offset)))).sum(1)


start = torch.zeros(D, dtype=torch.float64)
print(f"d = {D}, loss at the start {float(black_box(start[None])):.4f}")

# %% [markdown]
# ## A gradient without a gradient
#
# Coordinate-wise estimation (CGE) moves along each axis by ±μ and takes the difference of the losses. It costs 2d queries.


# %%
def cge(w: torch.Tensor, mu: float = 1e-3) -> torch.Tensor:
    steps = mu * torch.eye(D, dtype=torch.float64)
    losses = black_box(torch.cat([w + steps, w - steps]))
    return (losses[:D] - losses[D:]) / (2 * mu)


print("queries of one gradient:", 2 * D)

# %% [markdown]
# ## Stage 1: evolution at a worst-case shift
#
# CMA-ES draws candidates around its mean and learns from the order of their losses.
# SharpZO scores each candidate shifted by ε* = ρ g/‖g‖, with g the gradient at the mean, so that a sharp minimum looks as bad as its rim.

# %%
S, RHO, GENERATIONS = 16, 0.05, 40
generator = np.random.default_rng(1)
# pycma draws from the function that it is given, so that the seed is ours
options = {"popsize": S, "seed": np.nan, "verbose": -9, "randn": lambda n, d: generator.standard_normal((n, d))}
evolution = cma.CMAEvolutionStrategy(start.numpy(), 0.4, options)
queries, curve = 0, []
for _ in range(GENERATIONS):
    mean = torch.from_numpy(evolution.mean.copy())
    g = cge(mean)
    shift = RHO * g / g.norm()
    candidates = torch.from_numpy(np.array(evolution.ask()))
    evolution.tell(list(candidates.numpy()), (black_box(candidates + shift)).tolist())
    queries += 2 * D + S
    curve.append((queries, float(black_box(torch.from_numpy(evolution.mean.copy())[None]))))
w = torch.from_numpy(evolution.mean.copy())
print(f"after stage 1: loss {curve[-1][1]:.4f}, {queries:,} queries")

# %% [markdown]
# ## Stage 2: sparse zeroth-order SGD
#
# Two queries along one random direction u give a slope, and w moves along u by it (RGE).
# Z-pruning keeps the coordinates with the highest w² z(g²), where z standardizes over the coordinates, and u is zero elsewhere.
# The mask is recomputed every K steps.

# %%
STEPS, K, RATIO, ETA, MU = 400, 100, 0.5, 0.05, 1e-3
draws = torch.Generator().manual_seed(1)
change = queries
for step in range(STEPS):
    if step % K == 0:
        squares = cge(w).square()
        queries += 2 * D
        score = w.square() * (squares - squares.mean()) / squares.std(correction=0)
        mask = torch.zeros(D, dtype=torch.float64)
        mask[score.topk(D - int(RATIO * D)).indices] = 1
    u = mask * torch.randn(D, generator=draws, dtype=torch.float64)
    plus, minus = black_box(torch.stack([w + MU * u, w - MU * u]))
    w = w - ETA * (plus - minus) / (2 * MU) * u
    queries += 2
    curve.append((queries, float(black_box(w[None]))))
print(f"after stage 2: loss {curve[-1][1]:.4f}, {queries:,} queries")

# %% [markdown]
# ## The same with the repository's classes
#
# `Config` holds the settings; the two stages and the change between them are objects that know nothing of CLIP.

# %%
config = Config(
    seed=1, popsize=S, sigma=0.4, bound=0.0, rho=RHO, zo_lr=ETA, prune_ratio=RATIO, prune_interval=K, zo_eps_mask=1e-3
)
optimizer = SharpZO(build_stage1(config, start), build_stage2(config, start), change=ChangeAt(GENERATIONS))
ours, spent = [], 0
for _ in range(GENERATIONS + STEPS):
    spent += optimizer.num_queries(1)
    optimizer.step(black_box)  # type: ignore[arg-type]  # neither stage takes derivatives
    ours.append((spent, float(black_box(optimizer.solution[None]))))
print(f"stage {optimizer.stage}: loss {ours[-1][1]:.4f}, {spent:,} queries")

# %%
figure = Figure(figsize=(6.4, 3.4), layout="constrained")
axes = figure.add_subplot()
axes.semilogy(*zip(*curve, strict=True), label="step by step")
axes.semilogy(*zip(*ours, strict=True), label="trainers.sharpzo")
axes.axvline(change, color="gray", linestyle=":", label="stage 2 starts")
axes.set_xlabel("queries")
axes.set_ylabel("loss at the solution")
axes.legend()

# %% [markdown]
# Put your own function in place of `black_box`. To make it a `--prompt_trainer` of your own, see [optimizers](../optimizers.md#add-your-own).
