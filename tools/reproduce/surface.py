"""Fig. 2b: the training loss around the point where stage 1 ended, on a grid along two fixed directions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clip.prompt import load_prompt
from tools.common.runs import Job
from tools.reproduce.suites import prompt_of
from trainers.jobs import make_job
from trainers.loading import load_task
from trainers.loop import build_problem
from utils.device import pick_device
from utils.seeds import torch_generator

# of the grid, in ‖w − w*‖₂; the paper does not say its own
RADIUS = 3.0
SIDE = 31
# distances at which the rise of the loss is averaged over directions
DISTANCES = (0.1, 0.5, 1.0, 3.0)
DIRECTIONS = 64


def directions(d: int, count: int, name: str) -> torch.Tensor:
    """Orthonormal random directions (count, d), count ≤ d; the same for every point."""
    normal = torch.randn(d, count, generator=torch_generator(0, name), dtype=torch.float64)
    return torch.linalg.qr(normal)[0].T


def surfaces(
    jobs: Sequence[tuple[str, Job]], device: str = "", radius: float = RADIUS, side: int = SIDE
) -> dict[str, dict[str, Any]]:
    """For each named run, whose settings but for the optimizer are one: the losses (side, side), the center's, and the mean rise.

    All are scored on the objective of the first run: the same images and the same A, since the seed is the same. `device`: "" for
    the run's own.
    """
    config = jobs[0][1].config
    where = pick_device(device or config.device)
    config = make_job(config, where).config
    objective = build_problem(config, load_task(config, where)).objective
    found = {}
    for name, job in jobs:
        w = load_prompt(Path(prompt_of(job)))[0]["w"]
        at = np.linspace(-radius, radius, side)
        e = directions(len(w), 2, "surface directions")
        grid = [w + x * e[0] + y * e[1] for y in at for x in at]
        losses = objective(torch.stack(grid)).numpy().reshape(side, side)
        center = float(objective(w[None])[0])
        u = directions(len(w), min(DIRECTIONS, len(w)), "sharpness directions")
        rises = {r: float(objective(torch.cat([w + r * u, w - r * u])).mean()) - center for r in DISTANCES}
        found[name] = {"at": at, "losses": losses, "center": center, "rises": rises}
    return found
