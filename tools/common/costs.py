"""What a run will cost, told before anything is loaded: its queries, and from a benchmark its time.

Queries come from the optimizer's own `num_queries`, asked of one that is built on a stand-in for data of the dataset's
published size.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip import MINIS
from datasets import DATASETS
from trainers import TRAINERS, TrainerInfo
from utils.errors import UserError
from utils.settings import Config

FLOAT64_OVER_FLOAT32 = 2.2
# the only trainer whose epochs keep their last, incomplete mini-batch
WHOLE_EPOCHS = frozenset({"craft"})
# of the text tower, where the context itself is searched
WIDTHS = {"Mini": 128, "Mini-RN": 128, "RN50": 512, "RN101": 512, "ViT-B/32": 512, "ViT-B/16": 512}
# what does not change the number of queries, so that a sweep's plan is worked out once a setting and not once a run
FREE = {
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
    """`queries` of a run, at most where not `exact`: `stage1` asked in whole batches, `refreshes` behind the pruning mask."""

    queries: int
    exact: bool = True
    stage1: int = 0
    refreshes: int = 0


def classes_of(config: Config) -> int | None:
    """Classes of the run's dataset, or None where only the disk knows."""
    sizes = DATASETS[config.dataset].sizes
    if sizes is None:
        return None
    base = -(-sizes.classes // 2)
    return {"all": sizes.classes, "base": base, "new": sizes.classes - base}[config.subsample_classes]


def cost(config: Config) -> Cost | None:
    """The queries of a run; None where they depend on data of unknown size."""
    if not TRAINERS[config.prompt_trainer].build:
        return Cost(0)
    backbone = config.backbone if config.prompt_space == "full" else ""
    return _cost(dataclasses.replace(config, **FREE, backbone=backbone))


class Unasked:
    """In place of an objective: an optimizer that is only asked for its plan may validate its first point, and asks no losses."""

    def query(self, asked: Any, size: int, compute: Callable[[], Any]) -> list[float]:
        return [0.0] * size


@functools.lru_cache(maxsize=4096)
def _cost(config: Config) -> Cost | None:
    import torch

    from trainers.blackbox.batches import MiniBatches
    from trainers.blackbox.problem import Problem
    from trainers.loop import build_optimizer

    classes = classes_of(config)
    if classes is None and config.epochs:
        return None
    images = config.shots * (classes or 1)
    batches = MiniBatches(
        images, config.train_batch, None, None, fresh=False, drop_last=config.prompt_trainer not in WHOLE_EPOCHS
    )
    steps = min(config.total_steps, config.epochs * batches.batches_per_epoch or config.total_steps)
    shape = None
    if config.prompt_space == "full":
        if config.backbone not in WIDTHS:
            return None
        shape = (len(config.ctx_init.split()) or config.n_ctx, WIDTHS[config.backbone])
    # of deep bpt-vlm one layer's entries: the layers take turns, so that their number changes no plan
    d = config.intrinsic_dim + (config.intrinsic_dim_v if config.prompt_trainer == "bpt-vlm" else 0)
    w0 = torch.zeros(math.prod(shape) if shape else d, dtype=torch.float64)
    stand_in = Problem(Unasked(), w0, None, None, None, steps, batches.batches_per_epoch, matrix=shape)
    optimizer = build_optimizer(config, stand_in)
    budget = config.max_queries
    if budget and optimizer.num_queries(steps) > budget:
        steps = _most_steps(optimizer.num_queries, steps, budget)
    total = optimizer.num_queries(steps)
    two_stages = TRAINERS[config.prompt_trainer].two_stages
    exact = not (two_stages and config.change_point == "auto")
    # of one stage: whole batches, unless its steps are pairs of queries as stage 2's are
    stage1 = 0 if not two_stages and optimizer.num_queries(1) <= 2 else total
    if two_stages and exact:
        stage1 = optimizer.num_queries(min(steps, config.change_point))
    refreshes = 0
    if two_stages and exact and config.stage2 == "sparse-zo" and config.pruning == "zscore":
        refreshes = total - stage1 - 2 * config.num_pertub * (steps - min(steps, config.change_point))
    return Cost(total, exact, stage1, refreshes)


def _most_steps(plan: Callable[[int], int], steps: int, budget: int) -> int:
    """The largest n ≤ `steps` with plan(n) ≤ budget, by bisection."""
    low, high = 0, steps
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if plan(middle) <= budget else (low, middle - 1)
    return low


class Benchmark:
    """Seconds a query from what `python -m tools.benchmark --output FILE` measured on this machine."""

    def __init__(self, rows: Mapping[str, Mapping[str, Any]]):
        self.rows = rows

    @classmethod
    def read(cls, path: Path) -> Benchmark:
        """Raises UserError for a file that is no benchmark."""
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            return cls({row["dataset"]: row | {"engine_seconds": float(row["engine_seconds"])} for row in rows})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"--benchmark: {path}: not what tools.benchmark writes: {error!r}") from error

    def seconds(self, config: Config) -> float | None:
        """Estimated time of a run's queries; None where the benchmark says nothing of it.

        It timed the text tower that all four of the paper's backbones share, on features that were computed once. A dataset
        that it did not time is scaled, by classes, from the one nearest in that.
        """
        price = cost(config)
        classes = classes_of(config)
        if price is None or classes is None or not self.rows or config.backbone in MINIS:
            return None
        info = TRAINERS[config.prompt_trainer]
        if price.queries and (info.problem != TrainerInfo.problem or info.derivative):
            # backpropagation, or images through the tower: not what was timed
            return None
        row = self.rows.get(config.dataset) or min(self.rows.values(), key=lambda r: abs(r["classes"] - classes))
        scale = classes / row["classes"]
        double = row.get("float64_over_float32") or FLOAT64_OVER_FLOAT32
        batched = row["engine_seconds"] * scale
        pair = row.get("stage2_step_seconds", 2 * row["engine_seconds"]) * scale
        stage1 = price.stage1 * batched * (double if config.zo_eps_cge < 1e-4 and config.precision == "auto" else 1)
        masks = price.refreshes * batched * (double if config.zo_eps_mask < 1e-4 and config.precision == "auto" else 1)
        return stage1 + masks + (price.queries - price.stage1 - price.refreshes) / 2 * pair
