"""SharpZO+: gradients without extra queries, and schedules that follow the budget."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.conftest import Quadratic
from tests.trainers.test_every_trainer import toy_problem
from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.estimators import CGE, Estimate
from trainers.loop import optimize
from trainers.sharpzo.plus import PopulationShiftedCMAES, SelfMasked, build, plan
from trainers.step_log import StepLog
from trainers.updates import SGD, Cosine
from utils.settings import Config

CONFIG = Config(dataset="digits", prompt_trainer="sharpzo+", popsize=8, zo_lr=0.05, prune_interval=4, eval_every=0)


class Scripted:
    """An estimator that returns these gradients in turn, at one query each, and records the masks."""

    def __init__(self, *gradients: list[float]):
        self.gradients, self.masks = iter(gradients), []

    def num_queries(self, d: int, calls: int = 1) -> int:
        return calls

    def __call__(self, objective: object, w: Tensor, mask: Tensor | None = None) -> Estimate:
        self.masks.append(mask.tolist())
        return Estimate(mask * torch.tensor(next(self.gradients), dtype=torch.float64), 0.0)


def cmaes() -> CMAES:
    generator = torch.Generator().manual_seed(1)
    normal = lambda n, d: torch.randn(n, d, generator=generator, dtype=torch.float64).numpy()  # noqa: E731
    return CMAES(torch.zeros(6, dtype=torch.float64), sigma=0.3, popsize=8, normal=normal)


def test_shift_has_length_rho_and_points_uphill_without_extra_queries() -> None:
    slope = torch.linspace(-1.0, 2.0, 6, dtype=torch.float64)
    seen = []

    def plane(W: Tensor, mu: float | None = None) -> Tensor:
        seen.append(W)
        return W @ slope

    optimizer = PopulationShiftedCMAES(cmaes(), rho=0.7)
    assert not optimizer.epsilon.any()
    optimizer.step(plane)
    assert float(optimizer.epsilon.norm()) == pytest.approx(0.7)
    assert float(optimizer.epsilon @ slope) > 0.3 * 0.7 * float(slope.norm())
    shift = optimizer.epsilon
    mean = optimizer.solution
    optimizer.step(plane)
    assert sum(map(len, seen)) == 16 == optimizer.num_queries(2)
    # the second population lies around θ + ε*, not around θ
    torch.testing.assert_close((seen[1] - mean - shift).mean(0), torch.zeros(6, dtype=torch.float64), atol=0.5, rtol=0)


def test_no_shift_if_all_losses_are_equal() -> None:
    optimizer = PopulationShiftedCMAES(cmaes(), rho=0.7)
    optimizer.step(lambda W, mu=None: torch.full((len(W),), 3.0, dtype=torch.float64))
    assert torch.equal(optimizer.epsilon, torch.zeros(6, dtype=torch.float64))


def test_mask_keeps_the_largest_sums_of_the_dense_half_of_a_turn() -> None:
    scripted = Scripted([3, 1, -1, 0], [-2, 1, -1, 0], [9, 9, 9, 9], [9, 9, 9, 9], [0, 0, 0, 5])
    masked, w = SelfMasked(scripted, ratio=0.5, interval=4), torch.zeros(4, dtype=torch.float64)
    for _ in range(5):
        masked(None, w)
    # sums of the first two calls: 1, 2, −2, 0
    assert scripted.masks == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 1]]
    assert masked.num_queries(4, 5) == 5


def test_ratio_zero_is_dense() -> None:
    scripted = Scripted(*[[1, 2, 3, 4]] * 4)
    masked = SelfMasked(scripted, ratio=0.0, interval=2)
    for _ in range(4):
        masked(None, torch.zeros(4, dtype=torch.float64))
    assert scripted.masks == [[1, 1, 1, 1]] * 4


def test_both_stages_follow_the_budget() -> None:
    config = dataclasses.replace(CONFIG, popsize=40, warmup_share=0.2, probes=8, total_steps=10**6)
    assert plan(dataclasses.replace(config, max_queries=5000)) == (25, 4000 // 9)
    assert plan(dataclasses.replace(config, max_queries=20_000)) == (100, 16_000 // 9)
    assert plan(dataclasses.replace(config, max_queries=0, total_steps=50)) == (10, 40)
    assert plan(dataclasses.replace(config, max_queries=5000, total_steps=30)) == (6, 24)
    assert plan(dataclasses.replace(config, max_queries=5000, warmup_share=0.0)) == (0, 5000 // 9)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_budget_is_spent_but_for_part_of_a_step(share: float) -> None:
    config = dataclasses.replace(CONFIG, max_queries=200, total_steps=10**6, warmup_share=share)
    problem, records = toy_problem(config), []
    optimize(build(config, problem), problem, StepLog(records.append), max_queries=200)
    assert 200 - 9 < records[-1]["queries"] <= 200
    assert [record["stage"] for record in records if record["step"]].count(1) == round(share * 200 / 8)


def test_step_size_falls_to_zero_at_the_end_of_the_budget() -> None:
    config = dataclasses.replace(CONFIG, max_queries=200, total_steps=10**6)
    problem, records = toy_problem(config), []
    optimize(build(config, problem), problem, StepLog(records.append), max_queries=200)
    factors = [record["schedule"] for record in records if record["stage"] == 2]
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)
    assert 0 < factors[-1] < 0.1


def test_cosine_scales_an_update_and_ends_at_zero() -> None:
    update, w = Cosine(SGD(lr=2.0), steps=4), torch.ones(1, dtype=torch.float64)
    assert [round(float(update(w, w)), 6) for _ in range(6)] == [2.0, 1.707107, 1.0, 0.292893, 0.0, 0.0]


def test_self_masked_estimates_have_no_entry_where_the_mask_is_zero() -> None:
    masked, w = SelfMasked(CGE(mu=1e-3), ratio=0.5, interval=2), torch.zeros(6, dtype=torch.float64)
    dense, sparse = (masked(Quadratic(6), w) for _ in range(2))
    assert int((dense.gradient != 0).sum()) == 6
    assert int((sparse.gradient != 0).sum()) == 3
    assert sparse.figures["kept"] == 0.5
