"""What a run will cost, before anything is loaded: its queries, and with a benchmark its time.

The number of queries is the optimizer's own `num_queries`, for an optimizer built without data; the dataset's published size
stands in for the data.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clip import MINIS
from datasets import DATASETS
from trainers import TRAINERS, TrainerInfo
from utils.errors import UserError
from utils.numbers import ceil_div
from utils.settings import Config

FLOAT64_OVER_FLOAT32 = 2.2
# The only trainer whose epochs keep their last, incomplete mini-batch.
WHOLE_EPOCHS = frozenset({"craft"})
# Width of the text tower, which matters when the context itself is searched.
WIDTHS = {"Mini": 128, "Mini-RN": 128, "RN50": 512, "RN101": 512, "ViT-B/32": 512, "ViT-B/16": 512}
# Settings that do not change the number of queries: a sweep computes its plan once per setting, not once per run.
FREE: dict[str, Any] = {
    "seed": 1,
    "run_name": "",
    "output_dir": "",
    "config": "",
    "root_path": None,
    "split_file": None,
    "checkpoint": None,
}


@dataclass(frozen=True)
class Cost:
    """`queries` of a run, an upper bound if not `exact`; `stage1` in whole batches, `refreshes` for the pruning mask.

    `gradients`: queries of `stage1` for the gradient behind ε*; the others score its population.
    """

    queries: int
    exact: bool = True
    stage1: int = 0
    refreshes: int = 0
    gradients: int = 0


def classes_of(config: Config) -> int | None:
    """Classes of the run's dataset, or None if that depends on data on disk."""
    sizes = DATASETS[config.dataset].sizes
    if sizes is None:
        return None
    base = ceil_div(sizes.classes, 2)
    return {"all": sizes.classes, "base": base, "new": sizes.classes - base}[config.subsample_classes]


def cost(config: Config) -> Cost | None:
    """The queries of a run; None if they depend on data of unknown size."""
    if not TRAINERS[config.prompt_trainer].trains:
        return Cost(0)
    backbone = config.backbone if config.prompt_space == "full" else ""
    return _cost(dataclasses.replace(config, **FREE, backbone=backbone))


@functools.lru_cache(maxsize=4096)
def _cost(config: Config) -> Cost | None:
    import torch

    from trainers.blackbox.batches import batches_per_epoch
    from trainers.blackbox.problem import Problem, num_steps
    from trainers.loop import build_optimizer

    classes = classes_of(config)
    if classes is None and config.epochs:
        return None
    images = config.shots * (classes or 1)
    nothing: Any = None
    per_epoch = batches_per_epoch(images, config.train_batch, drop_last=config.prompt_trainer not in WHOLE_EPOCHS)
    steps = num_steps(config, per_epoch)
    shape = None
    if config.prompt_space == "full":
        if config.backbone not in WIDTHS:
            return None
        shape = (len(config.ctx_init.split()) or config.n_ctx, WIDTHS[config.backbone])
    # Deep bpt-vlm searches one layer at a time, so the number of layers does not matter.
    d = config.intrinsic_dim + (config.intrinsic_dim_v if config.prompt_trainer == "bpt-vlm" else 0)
    w0 = torch.zeros(math.prod(shape) if shape else d, dtype=torch.float64)
    problem = Problem(nothing, w0, nothing, nothing, nothing, steps, per_epoch, matrix=shape)
    optimizer = build_optimizer(config, problem)
    budget = config.max_queries
    if budget and optimizer.num_queries(steps) > budget:
        steps = _most_steps(optimizer.num_queries, steps, budget)
    total = optimizer.num_queries(steps)

    # Only these have a population with a gradient.
    def gradients(stage1: int, generations: int) -> int:
        return stage1 - config.popsize * generations if info.two_stages or config.prompt_trainer == "cma-es" else 0

    info = TRAINERS[config.prompt_trainer]
    if not info.two_stages:
        # Whole batches, unless a step is a pair of queries, as in stage 2.
        stage1 = 0 if optimizer.num_queries(1) <= 2 else total
        return Cost(total, stage1=stage1, gradients=gradients(stage1, steps))
    if not isinstance(config.change_point, int):
        return Cost(total, exact=False, stage1=total, gradients=gradients(total, steps))
    change = min(steps, config.change_point)
    stage1 = optimizer.num_queries(change)
    masked = config.stage2 == "sparse-zo" and config.pruning == "zscore"
    refreshes = total - stage1 - 2 * config.num_pertub * (steps - change) if masked else 0
    return Cost(total, True, stage1, refreshes, gradients(stage1, change))


def _most_steps(plan: Callable[[int], int], steps: int, budget: int) -> int:
    """The largest n ≤ `steps` with plan(n) ≤ budget, by bisection."""
    low, high = 0, steps
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if plan(middle) <= budget else (low, middle - 1)
    return low


class Times(Protocol):
    """What estimates the time of a run."""

    def seconds(self, config: Config) -> float | None: ...


class Benchmark:
    """Seconds per query, from what `python -m tools.benchmark --output FILE` measured on this machine."""

    def __init__(self, rows: Mapping[str, Mapping[str, Any]]):
        self.rows = rows

    @classmethod
    def read(cls, path: Path) -> Benchmark:
        """Raises UserError for a file that tools.benchmark did not write."""
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            return cls({row["dataset"]: row | {"engine_seconds": float(row["engine_seconds"])} for row in rows})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"--benchmark: {path}: not a file of tools.benchmark --output: {error!r}") from error

    def seconds(self, config: Config) -> float | None:
        """Estimated time of a run's queries; None if the benchmark does not cover it.

        The benchmark times the text tower that all four of the paper's backbones share, on precomputed features. A dataset
        that it did not time is scaled by classes from the one with the nearest number of classes.
        """
        price = cost(config)
        classes = classes_of(config)
        if price is None or classes is None or not self.rows or config.backbone in MINIS:
            return None
        info = TRAINERS[config.prompt_trainer]
        if price.queries and (info.problem != TrainerInfo.problem or info.derivative):
            # Backpropagation and image encoding are not what the benchmark timed.
            return None
        row = self.rows.get(config.dataset) or min(self.rows.values(), key=lambda r: abs(r["classes"] - classes))
        scale = classes / row["classes"]
        double = row.get("float64_over_float32") or FLOAT64_OVER_FLOAT32
        batched = row["engine_seconds"] * scale
        pair = row.get("stage2_step_seconds", 2 * row["engine_seconds"]) * scale

        def gradient_query(estimator: str, mu: float) -> float:
            if estimator == "jvp":
                return tangent_seconds(row, config.tangent_precision, row["engine_seconds"]) * scale
            return batched * (double if mu < 1e-4 and config.precision == "auto" else 1)

        stage1 = (price.stage1 - price.gradients) * batched
        stage1 += price.gradients * gradient_query(config.smoothness_estimator, config.zo_eps_cge)
        masks = price.refreshes * gradient_query(config.mask_estimator, config.zo_eps_mask)
        return stage1 + masks + (price.queries - price.stage1 - price.refreshes) / 2 * pair


def tangent_seconds(row: Mapping[str, Any], precision: str, otherwise: float) -> float:
    """Seconds per tangent from a row of `tools.benchmark --tangents`, or `otherwise`; "auto": the fastest that it measured."""
    measured = [row[f"tangent_seconds_{way}"] for way in ("float32", "bfloat16") if f"tangent_seconds_{way}" in row]
    named = row.get(f"tangent_seconds_{precision}", min(measured, default=0.0))
    return named / row["coordinates"] if named else otherwise
