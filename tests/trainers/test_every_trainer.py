"""Every registered trainer on a quadratic: it descends, is reproducible, and costs what it declares."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from torch import Tensor

from tests.conftest import Quadratic
from trainers import TRAINERS
from trainers.blackbox.problem import Problem, initial_vector
from trainers.loop import build_optimizer, optimize
from trainers.step_log import StepLog
from utils.interrupt import Deadline, Interrupted
from utils.settings import Config

SMALL = Config(
    dataset="digits", popsize=8, total_steps=12, change_point=4, prune_interval=3, zo_eps_mask=1e-4, eval_every=0, zo_lr=0.05
)
# step sizes for the quadratic, since published ones are meant for another scale
QUICK = {
    "zip": {"spsa_a": 0.2, "zo_clip": True},
    "zip-20k": {"spsa_a": 0.2, "zo_clip": True},
    "coop": {"lr": 0.1},
    "spsa": {"spsa_a": 0.5},
    "lozo": {"prompt_space": "full"},
    "curvzo": {"zo_lr": 0.02, "curvzo_share": 1.0},
    "zoar": {"zo_lr": 0.005, "zo_eps_rge": 0.05},
    "blackvip": {"spsa_a": 0.2},
    "bpt-vlm": {"deploy": "best"},
}
trainers = pytest.mark.parametrize("trainer", [name for name, info in TRAINERS.items() if info.build and info.prompt])


class CountingQuadratic(Quadratic):
    """The quadratic with Objective's counters, and an adapter whose epoch is one batch."""

    def __init__(self, d: int):
        super().__init__(d)
        self.epochs = 0

    @property
    def queries(self) -> int:
        return super().queries + self.epochs

    def costs(self) -> dict[str, int]:
        return {"queries": self.queries}

    def train_adapter(self, w: Tensor, consistency: float) -> float:
        self.epochs += 1
        return 0.0


def toy_problem(config: Config, d: int = 6, validation_accuracy: float = 0.5) -> Problem:
    """A problem without images: the quadratic, its start, and a validation accuracy that never changes."""

    class Toy(Problem):
        def validate(self, w: Tensor) -> float:
            return validation_accuracy

    return Toy(CountingQuadratic(d), initial_vector(config, d), None, None, None, steps=config.total_steps, matrix=(2, d // 2))


def run(config: Config, d: int = 6) -> tuple[Tensor, list[dict]]:
    problem, records = toy_problem(config, d), []
    return optimize(build_optimizer(config, problem), problem, StepLog(records.append), max_queries=config.max_queries), records


def settings(trainer: str, **options) -> Config:
    return dataclasses.replace(SMALL, prompt_trainer=trainer, **QUICK.get(trainer, {}) | options)


@trainers
def test_descends(trainer: str) -> None:
    w, _ = run(settings(trainer, total_steps=60, change_point=30))
    first, _ = run(settings(trainer, total_steps=1, change_point=1))
    assert float(Quadratic(6)(w[None])) < float(Quadratic(6)(first[None])) / 2


@trainers
def test_same_seed_same_path_other_seed_another(trainer: str) -> None:
    first, again, other = (run(settings(trainer, seed=seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@trainers
def test_queries_of_one_step_are_exact(trainer: str) -> None:
    problem = toy_problem(settings(trainer))
    optimizer, loss = build_optimizer(settings(trainer), problem), problem.objective
    for _ in range(12):
        announced, before = optimizer.num_queries(1), loss.queries
        optimizer.step(loss)
        assert loss.queries - before == announced


@trainers
def test_a_step_that_does_not_fit_the_budget_is_not_started(trainer: str) -> None:
    _, records = run(settings(trainer, max_queries=40, total_steps=1000))
    assert 0 < records[-1]["queries"] <= 40


def test_no_step_starts_that_would_exceed_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    class Slow(CountingQuadratic):
        """Takes a second per query."""

        def __call__(self, W: Tensor, mu: float | None = None) -> Tensor:
            nonlocal now
            now += len(W)
            return super().__call__(W, mu)

    config = settings("sharpzo")
    # the first step always starts; then 20 queries per step, and in stage 2 two, with 12 more for a mask now and then
    for seconds in range(20, 130):
        now, problem = 0.0, dataclasses.replace(toy_problem(config), objective=Slow(6))
        optimizer = build_optimizer(config, problem)
        with pytest.raises(Interrupted):
            optimize(optimizer, problem, StepLog(lambda entry: None), deadline=Deadline(seconds))
        assert now <= seconds < now + optimizer.num_queries(1)


@trainers
def test_nothing_is_drawn_from_the_global_generators(trainer: str) -> None:
    import random

    import numpy as np

    def states() -> tuple:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002

    before = states()
    run(settings(trainer))
    assert states() == before
