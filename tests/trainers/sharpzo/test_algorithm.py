"""Algorithm 1: two stages, the change point, and the queries per step at the paper's sizes."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch

from tests.trainers.test_every_trainer import run, toy_problem
from trainers.loop import build_optimizer
from trainers.sharpzo.algorithm import ChangeAtPlateau
from trainers.sharpzo.build import build
from utils.errors import UserError
from utils.settings import Config

PAPER = Config(dataset="digits", change_point=2, total_steps=205, eval_every=0)


def small(**options) -> Config:
    tiny = {"popsize": 4, "total_steps": 12, "change_point": 4, "prune_interval": 3, "zo_eps_mask": 1e-4}
    return dataclasses.replace(PAPER, **tiny | options)


def test_queries_per_step_are_the_papers_at_its_sizes(quadratic) -> None:
    _, records = run(dataclasses.replace(PAPER, total_steps=203, change_point=2), d=512)
    costs = [b["queries"] - a["queries"] for a, b in pairwise(records)]
    assert costs[:2] == [1064, 1064]
    assert costs[2] == 1026
    assert costs[3:202] == [2] * 199
    assert costs[202] == 1026


def test_queries_of_a_whole_run_are_those_of_the_paper() -> None:
    config = dataclasses.replace(PAPER, total_steps=20_000, change_point=100)
    assert build(config, toy_problem(config, d=512, validation_accuracy=0.0)).num_queries(20_000) == 248_600
    config = dataclasses.replace(config, change_point=500)
    assert build(config, toy_problem(config, d=512, validation_accuracy=0.0)).num_queries(20_000) == 671_352


def test_stage_two_starts_at_the_stage_one_mean(quadratic) -> None:
    config = small()
    optimizer = build(config, toy_problem(config, d=6, validation_accuracy=0.0))
    loss = quadratic(6)
    stage1 = optimizer.current
    for _ in range(config.change_point):
        assert optimizer.stage == 1
        optimizer.step(loss)
    assert optimizer.stage == 2
    assert torch.equal(optimizer.solution, stage1.solution)


def test_cma_es_trainer_stays_in_stage_one(quadratic) -> None:
    _, records = run(small(prompt_trainer="cma-es"))
    assert {record["stage"] for record in records} == {1}


def test_change_point_zero_skips_stage_one(quadratic) -> None:
    _, records = run(small(change_point=0))
    assert {record["stage"] for record in records} == {2}


@pytest.mark.parametrize("trainer", ["sharpzo", "cma-es", "sep-cma"])
def test_first_vector_outside_the_box_is_refused(trainer: str) -> None:
    config = small(prompt_trainer=trainer, init_std=50.0, bound=1.0)
    with pytest.raises(UserError, match="--init_std"):
        build_optimizer(config, toy_problem(config))


def test_plateau_waits_for_patience_steps_without_a_real_gain() -> None:
    accuracies = iter([0.50, 0.52, *[0.525] * 20])
    change = ChangeAtPlateau(lambda w: next(accuracies), patience=10, gain=0.01)
    reached = [change.reached(step, torch.zeros(1)) for step in range(12)]
    assert reached.index(True) == 11


def test_plateau_starts_over_at_a_gain_over_the_best_seen() -> None:
    accuracies = iter([0.50] * 10 + [0.52] + [0.52] * 10)
    change = ChangeAtPlateau(lambda w: next(accuracies))
    assert not any(change.reached(step, torch.zeros(1)) for step in range(20))
    assert change.reached(20, torch.zeros(1))
    creeping = iter([0.5 + 0.004 * step for step in range(11)])
    change = ChangeAtPlateau(lambda w: next(creeping))
    assert [change.reached(step, torch.zeros(1)) for step in range(11)].index(True) == 10


def test_auto_change_point_follows_validation_accuracy(quadratic) -> None:
    config = small(change_point="auto", total_steps=40)
    optimizer = build(config, toy_problem(config, d=6, validation_accuracy=0.5))
    for _ in range(10):
        assert optimizer.stage == 1
        optimizer.step(quadratic(6))
    assert optimizer.stage == 2


def test_building_auto_queries_nothing_and_the_first_step_validates_the_start(quadratic) -> None:
    config = small(change_point="auto", total_steps=40)
    validated: list[torch.Tensor] = []
    problem = toy_problem(config, d=6, validation_accuracy=0.5)
    object.__setattr__(problem, "validate", lambda w: validated.append(w.clone()) or 0.5)
    optimizer = build(config, problem)
    assert not validated
    optimizer.step(quadratic(6))
    assert torch.equal(validated[0], problem.initial)
    assert len(validated) == 2
