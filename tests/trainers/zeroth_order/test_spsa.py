"""SPSA, its clipping and its momentum: one step by hand, and the published schedule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.conftest import Quadratic
from trainers.zeroth_order.spsa import SPSA, segmented_uniform


def perturbations(seed: int, d: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda q: segmented_uniform((q, d), generator)


def by_hand(w: Tensor, delta: Tensor, c: float) -> Tensor:
    """The estimate of one step, draw by draw and coordinate by coordinate."""
    loss = Quadratic(len(w))
    estimate = torch.zeros_like(w)
    for row in delta:
        difference = float(loss((w + c * row)[None]) - loss((w - c * row)[None]))
        for i in range(len(w)):
            estimate[i] += difference / (2 * c * float(row[i])) / len(delta)
    return estimate


def test_one_step_is_the_mean_of_the_two_sided_estimates() -> None:
    w = torch.linspace(-2, 2, 7, dtype=torch.float64)
    optimizer = SPSA(w, perturb=perturbations(1, 7), q=3, c=0.02, gamma=0.1, a=0.5, o=1.0, alpha=0.4)
    loss = Quadratic(7)
    optimizer.step(loss)
    expected = w - 0.5 / 2**0.4 * by_hand(w, perturbations(1, 7)(3), 0.02)
    torch.testing.assert_close(optimizer.solution, expected, rtol=1e-10, atol=1e-12)
    assert [len(batch) for batch in loss.batches] == [6]


@pytest.mark.parametrize(("k", "a_k", "c_k"), [(1, 7.6e-3, 0.0100), (100, 1.6e-3, 0.0063), (500, 8.3e-4, 0.0054)])
def test_step_and_perturbation_sizes_are_zips(k: int, a_k: float, c_k: float) -> None:
    optimizer = SPSA(torch.zeros(1, dtype=torch.float64), perturb=lambda q: torch.ones(q, 1, dtype=torch.float64))
    optimizer.estimator.k = optimizer.update.k = k - 1
    seen: list[float] = []

    def slope_one(W: Tensor, mu: float | None = None) -> Tensor:
        seen.append(float(W.max()))
        return W[:, 0]

    optimizer.step(slope_one)
    assert -float(optimizer.solution) == pytest.approx(a_k, rel=0.02)
    assert seen[0] == pytest.approx(c_k, abs=5e-5)


def test_perturbations_are_segmented_uniform() -> None:
    delta = segmented_uniform((4000, 3), torch.Generator().manual_seed(0))
    assert float(delta.abs().min()) >= 0.5
    assert float(delta.abs().max()) <= 1.0
    assert abs(float(delta.mean())) < 0.03
    assert float(delta.abs().mean()) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(("slope", "expected"), [(1.0, 1.0), (2.0, 2.0), (3.0, 2.0)])
def test_an_estimate_as_long_as_the_root_of_d_or_longer_is_cut_to_it(slope: float, expected: float) -> None:
    d = 4
    optimizer = SPSA(
        torch.zeros(d, dtype=torch.float64), perturb=lambda q: torch.ones(q, d, dtype=torch.float64), a=1.0, o=0.0, clip=True
    )
    # along (1, 1, 1, 1), L = slope/2 · mean gives an estimate of slope/2 in each coordinate: length `slope`, and √d = 2
    figures = optimizer.step(lambda W, mu: slope / 2 * W.mean(1))
    assert float(optimizer.solution.norm()) == pytest.approx(expected)
    assert figures["clipped"] == float(slope >= 2.0)
    assert figures["grad_norm"] == pytest.approx(slope)


def test_momentum_is_that_of_spsa_gc() -> None:
    w, beta = torch.zeros(2, dtype=torch.float64), 0.5
    slopes = [1.0, -2.0, 4.0]
    optimizer = SPSA(w, perturb=lambda q: torch.ones(q, 2, dtype=torch.float64), q=1, a=1.0, alpha=0.0, momentum=beta)
    expected, m = w.clone(), torch.zeros(2, dtype=torch.float64)
    for k, slope in enumerate(slopes):
        optimizer.step(lambda W, mu, slope=slope: slope * W.sum(1) / 2)
        g = torch.full((2,), slope, dtype=torch.float64)
        m = g if k == 0 else beta * m + g
        expected = expected - (g + beta * m)
        torch.testing.assert_close(optimizer.solution, expected)


def test_expected_estimate_is_the_gradient_of_a_quadratic() -> None:
    loss = Quadratic(3)
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    optimizer = SPSA(w, perturb=perturbations(3, 3), q=20_000, a=1.0, o=0.0)
    optimizer.step(loss)
    _, gradient = loss.gradient(w)
    # an element-wise 1/Δ keeps the coordinate's own share, and E[Δ_j/Δ_i] = 0 for the others
    assert float((w - optimizer.solution - gradient).norm()) < 4 * float(gradient.norm()) / math.sqrt(20_000) * 2
