"""Stage 1: the perturbation of eq. 2, and the losses that CMA-ES receives."""

from __future__ import annotations

import math

import cma
import numpy as np
import pytest
import torch
from torch import Tensor

from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.estimators import CGE, Backpropagation
from trainers.sharpzo.released import ReleasedCMAES
from trainers.sharpzo.stage1 import SharpnessAwareCMAES
from utils.seeds import numpy_generator

D, S = 6, 8


def normal(seed: int = 0):
    generator = numpy_generator(seed, "CMA-ES")
    return lambda n, size: generator.standard_normal((n, size))


ESTIMATORS = {"zo": CGE(mu=1e-4), "fo": Backpropagation(), "none": None}


def inner() -> CMAES:
    return CMAES(torch.full((D,), 0.3, dtype=torch.float64), sigma=0.4, popsize=S, bound=5.0, normal=normal())


def make(rho: float = 0.1, estimator: str = "zo") -> SharpnessAwareCMAES:
    return SharpnessAwareCMAES(inner(), rho=rho, estimator=ESTIMATORS[estimator])


def released(**options) -> ReleasedCMAES:
    return ReleasedCMAES(inner(), rho=0.1, estimator=ESTIMATORS["zo"], **options)


@pytest.mark.parametrize("estimator", ["zo", "fo"])
def test_perturbation_has_norm_rho_and_points_uphill(quadratic, estimator: str) -> None:
    loss = quadratic(D)
    stage = make(rho=0.1, estimator=estimator)
    w = stage.inner.mean
    epsilon = stage.worst_case(loss)
    assert math.isclose(float(epsilon.norm()), 0.1, rel_tol=1e-12)
    true = loss.gradient(w)[1]
    torch.testing.assert_close(epsilon, 0.1 * true / true.norm(), rtol=1e-6, atol=1e-9)
    assert loss((w + epsilon)[None]) > loss(w[None])


def test_zero_gradient_gives_zero_perturbation() -> None:
    stage = make()
    assert torch.equal(stage.worst_case(lambda W, mu=None: torch.ones(len(W), dtype=torch.float64)), torch.zeros(D).double())


def test_cma_receives_its_own_points_with_the_losses_at_the_shifted_ones(quadratic, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = quadratic(D)
    stage = make(rho=0.2)
    sampled, received = [], []
    ask, tell = stage.inner.ask, stage.inner.tell
    monkeypatch.setattr(stage.inner, "ask", lambda: sampled.append(ask()) or sampled[-1])
    monkeypatch.setattr(stage.inner, "tell", lambda x, f: received.append((x.clone(), f.clone())) or tell(x, f))
    stage.step(loss)
    gradient_batch, candidate_batch = loss.batches
    assert len(gradient_batch) == 2 * D and len(candidate_batch) == S
    epsilon = 0.2 * stage.gradient / stage.gradient.norm()
    points, losses = received[0]
    assert torch.equal(points, sampled[0])
    torch.testing.assert_close(candidate_batch, points + epsilon, rtol=0, atol=1e-15)
    torch.testing.assert_close(losses, quadratic(D)(points + epsilon))


@pytest.mark.parametrize(("rho", "estimator"), [(0.0, "zo"), (0.1, "none")])
def test_without_perturbation_it_walks_as_bare_cma(quadratic, rho: float, estimator: str) -> None:
    stage = make(rho=rho, estimator=estimator)
    options = {"popsize": S, "bounds": [-5, 5], "randn": normal(), "seed": math.nan, "verbose": -9}
    bare = cma.CMAEvolutionStrategy(np.full(D, 0.3), 0.4, options)
    loss = quadratic(D)
    for _ in range(12):
        stage.step(loss)
        points = bare.ask()
        bare.tell(points, quadratic(D)(torch.from_numpy(np.stack(points))).tolist())
    assert np.array_equal(stage.solution.numpy(), bare.result.xfavorite)
    assert stage.inner.sigma == bare.sigma


def test_perturbation_changes_the_walk(quadratic) -> None:
    with_it, without = make(rho=0.5), make(rho=0.0)
    for _ in range(5):
        with_it.step(quadratic(D))
        without.step(quadratic(D))
    assert not torch.equal(with_it.solution, without.solution)


def test_descends_on_a_quadratic(quadratic) -> None:
    stage = make(rho=0.01)
    first = float(quadratic(D)(stage.solution[None]))
    for _ in range(40):
        stage.step(quadratic(D))
    assert float(quadratic(D)(stage.solution[None])) < first / 100


def test_candidates_stay_in_the_box() -> None:
    boxed = CMAES(torch.zeros(D, dtype=torch.float64), sigma=10.0, popsize=S, bound=0.5, normal=normal())
    assert boxed.ask().abs().max() <= 0.5
    free = CMAES(torch.zeros(D, dtype=torch.float64), sigma=10.0, popsize=S, normal=normal())
    assert free.ask().abs().max() > 0.5


def test_global_generators_are_left_alone(quadratic) -> None:
    np.random.seed(7)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    stage = make()
    stage.step(quadratic(D))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(("estimator", "gradient"), [("zo", 2 * D), ("fo", 1), ("none", 0)])
def test_num_queries_is_the_cost_of_a_step(quadratic, estimator: str, gradient: int) -> None:
    loss = quadratic(D)
    stage = make(estimator=estimator)
    assert stage.num_queries(1) == gradient + S
    stage.step(loss)
    assert loss.queries == gradient + S


def test_released_matrix_radius_is_rho_over_root_popsize(quadratic) -> None:
    epsilon = released(departures={"matrix-radius"}).worst_case(quadratic(D))
    assert math.isclose(float(epsilon.norm()), 0.1 / math.sqrt(S), rel_tol=1e-12)


def test_released_gradient_is_taken_at_the_mean_of_a_fresh_population(quadratic, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = quadratic(D)
    first = torch.full((D,), 0.7, dtype=torch.float64)
    stage = released(departures={"fresh-mean-gradient", "fresh-mean-start"}, first_mean=first)
    populations: list[Tensor] = []
    ask = stage.inner.ask
    monkeypatch.setattr(stage.inner, "ask", lambda: populations.append(ask()) or populations[-1])
    stage.step(loss)
    torch.testing.assert_close(loss.batches[0].mean(0), first)
    assert len(populations) == 2
    assert torch.equal(stage.solution, populations[1].mean(0))
    stage.step(loss)
    torch.testing.assert_close(loss.batches[2].mean(0), populations[1].mean(0))
