# %% [markdown]
# # What the two stages do
#
# One short run on the bundled digits from the inside: how far each step moves, which coordinates the mask selects, and the loss around the points where the two stages end.

# %%
import sys
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from matplotlib.figure import Figure

from datasets import DATASETS
from trainers import TRAINERS
from trainers.jobs import make_job
from trainers.loading import load_task
from trainers.loop import build_optimizer, build_problem
from trainers.sharpzo.algorithm import SharpZO
from trainers.sharpzo.stage2 import SparseZO
from utils.config import load_config

CHANGE, STEPS, INTERVAL = 12, 400, 40
flags = f"--intrinsic_dim 64 --std 0.2 --change_point {CHANGE} --total_steps {STEPS} --prune_interval {INTERVAL}"
device = torch.device("cpu")
config = make_job(load_config(flags.split(), TRAINERS, DATASETS), device).config
task = load_task(config, device)
problem = build_problem(config, task)
optimizer = build_optimizer(config, problem)
assert isinstance(optimizer, SharpZO) and isinstance(optimizer.stage2, SparseZO)
objective = problem.objective
print(
    f"{len(task.train)} training images, {len(task.dataset.classnames)} classes, zero-shot accuracy {task.zero_shot_accuracy:.2f}%"
)

# %% [markdown]
# ## The run, step by step

# %%
points, losses, sigmas = [optimizer.solution.clone()], [], []
masks: list[torch.Tensor] = []
for _ in range(STEPS):
    figures = optimizer.step(objective)
    points.append(optimizer.solution.clone())
    losses.append(figures["loss"])
    if optimizer.stage == 1:
        sigmas.append(figures["sigma"])
    elif (len(losses) - CHANGE) % INTERVAL == 1:
        assert optimizer.stage2.mask is not None
        masks.append(optimizer.stage2.mask.clone())
first, last = points[CHANGE], points[-1]
for name, w in (("start", points[0]), ("end of stage 1", first), ("end of stage 2", last)):
    print(
        f"{name}: loss {objective.loss_at(w, problem.train):.4f}, test accuracy {100 * objective.accuracy(w, problem.test):.2f}%"
    )
print(f"{objective.queries:,} queries")

# %% [markdown]
# ## Step sizes
#
# Stage 1 moves w far, by the mean of a whole population. Stage 2 moves it a little, along one random direction at a time.

# %%
lengths = [float((b - a).norm()) for a, b in pairwise(points)]
figure = Figure(figsize=(6.4, 3.4), layout="constrained")
axes = figure.add_subplot()
axes.semilogy(range(1, STEPS + 1), np.maximum(lengths, 1e-6), ".", markersize=3, label="length of the step of w")
axes.semilogy(range(1, len(sigmas) + 1), sigmas, label="σ of CMA-ES")
axes.axvline(CHANGE + 0.5, color="gray", linestyle=":", label="stage 2 starts")
axes.set_xlabel("step")
axes.legend()
stage1, stage2 = np.mean(lengths[:CHANGE]), np.mean(lengths[CHANGE:])
print(f"mean length of a step: stage 1 {stage1:.3f}, stage 2 {stage2:.3f}")

# %% [markdown]
# ## The mask over time
#
# Every row is one refresh of the mask; dark coordinates move until the next refresh. Two random masks of this size have half of their coordinates in common.

# %%
figure = Figure(figsize=(6.4, 2.6), layout="constrained")
axes = figure.add_subplot()
axes.imshow(torch.stack(masks).numpy(), cmap="Greys", aspect="auto", interpolation="nearest")
axes.set_xlabel("coordinate of w")
axes.set_ylabel("refresh")
kept = [float(a[b > 0].mean()) for a, b in pairwise(masks)]
print(f"coordinates in common from one mask to the next: {100 * np.mean(kept):.0f}% on average, {100 * min(kept):.0f}% at least")

# %% [markdown]
# ## The loss around w
#
# The training loss on a grid along two fixed random directions, around the point where each stage ended.

# %%
normal = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
e = torch.linalg.qr(normal)[0].T
at = np.linspace(-3, 3, 17)
figure = Figure(figsize=(7.2, 3.3), layout="constrained")
grids = {}
for name, w in (("end of stage 1", first), ("end of stage 2", last)):
    grid = torch.stack([w + x * e[0] + y * e[1] for y in at for x in at])
    grids[name] = objective(grid).reshape(len(at), len(at)).numpy()
levels = np.linspace(min(map(np.min, grids.values())), max(map(np.max, grids.values())), 13)
for number, (name, surface) in enumerate(grids.items(), start=1):
    axes = figure.add_subplot(1, 2, number)
    drawn = axes.contourf(at, at, surface, levels=levels, cmap="viridis")
    axes.plot(0, 0, "w+", markersize=10)
    axes.set_title(name, fontsize=10)
    axes.set_aspect("equal")
    print(
        f"{name}: loss {surface[8, 8]:.4f} at w, {surface.min():.4f} at the lowest point of the grid, {surface.max():.4f} at the highest"
    )
figure.colorbar(drawn, ax=figure.axes, label="training loss")
