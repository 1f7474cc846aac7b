"""Stage 2: Z-pruning (eq. 5) and the masked update (eq. 4)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from trainers.blackbox.estimators import CGE, RGE
from trainers.blackbox.masks import Dense, MagnitudePruning, prune_mask
from trainers.sharpzo.released import ReleasedSparseZO, ReleasedZPruning
from trainers.sharpzo.stage2 import SparseZO, ZPruning, z_pruning_score

D = 8


def directions(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def start() -> Tensor:
    return torch.linspace(-2.0, 3.0, D, dtype=torch.float64)


def rules(ratio: float = 0.5, mu: float = 1e-5) -> dict:
    return {"zscore": ZPruning(CGE(mu=mu), ratio=ratio), "magnitude": MagnitudePruning(ratio=ratio), "none": Dense()}


def make(pruning: str = "zscore", ratio: float = 0.5, lr: float = 0.05, mu: float = 1e-4, q: int = 1, **options) -> SparseZO:
    estimator = RGE(mu=mu, normal=directions(), q=q)
    return SparseZO(start(), lr=lr, estimator=estimator, pruning=rules(ratio)[pruning], **options)


def released(*departures: str, pruning: str = "zscore", ratio: float = 0.5, lr: float = 0.05, buffer=None, **options):
    """Stage 2 with these departures of the released code, its buffer set."""
    rule = rules(ratio)[pruning]
    if pruning == "zscore":
        rule = ReleasedZPruning(CGE(mu=1e-5), ratio=ratio, departures=departures)
    rge = RGE(mu=1e-4, normal=directions())
    stage = ReleasedSparseZO(start(), lr=lr, estimator=rge, pruning=rule, departures=departures, **options)
    if buffer is not None:
        stage.set_buffer(buffer)
    return stage


def test_score_is_squared_weight_times_standardized_squared_gradient() -> None:
    w, g = np.array([1.0, -2.0, 0.5]), np.array([3.0, 1.0, -2.0])
    square = g**2
    expected = w**2 * (square - square.mean()) / square.std()
    np.testing.assert_allclose(z_pruning_score(torch.tensor(w), torch.tensor(g)).numpy(), expected, rtol=1e-12)


def test_large_weight_with_small_gradient_ranks_below_a_weight_near_zero() -> None:
    score = z_pruning_score(torch.tensor([5.0, 0.01, 1.0]), torch.tensor([0.1, 0.1, 2.0]))
    assert score.argsort().tolist() == [0, 1, 2]


@pytest.mark.parametrize(("ratio", "dropped"), [(0.0, 0), (0.1, 1), (0.5, 5), (0.55, 5), (0.99, 9)])
def test_mask_drops_the_floor_of_the_ratio(ratio: float, dropped: int) -> None:
    score = torch.tensor([3.0, 9.0, 1.0, 7.0, 0.0, 8.0, 2.0, 6.0, 4.0, 5.0])
    mask = prune_mask(score, ratio)
    assert int((mask == 0).sum()) == dropped
    assert dropped in (0, 10) or score[mask == 0].max() < score[mask == 1].min()


def test_equal_scores_and_no_spread_fall_back_on_coordinate_order() -> None:
    assert torch.equal(z_pruning_score(torch.ones(512), torch.full((512,), 0.3)), torch.zeros(512))
    score = z_pruning_score(torch.arange(6.0), torch.ones(6))
    assert torch.equal(score, torch.zeros(6))
    assert prune_mask(score, 0.5).tolist() == [0, 0, 0, 1, 1, 1]


def test_one_step_is_the_formula(quadratic) -> None:
    loss, lr, mu = quadratic(D), 0.05, 1e-2
    stage = make(lr=lr, mu=mu, q=2, pruning="none")
    draw = directions()
    u = draw(2, D)
    w = start()
    slopes = [(quadratic(D)((w + mu * v)[None]) - quadratic(D)((w - mu * v)[None])) / (2 * mu) for v in u]
    expected = w - lr * (slopes[0] * u[0] + slopes[1] * u[1]) / 2
    stage.step(loss)
    torch.testing.assert_close(stage.solution, expected, rtol=1e-12, atol=1e-12)


def test_masked_coordinates_never_move_between_refreshes(quadratic) -> None:
    loss = quadratic(D)
    stage = make(ratio=0.5, interval=10)
    for _ in range(3):
        before = stage.solution.clone()
        for _ in range(10):
            stage.step(loss)
            moved = stage.solution != before
            assert torch.equal(moved, stage.mask.bool())
    perturbed = torch.cat([batch for batch in loss.batches if len(batch) == 2])
    assert len(perturbed) == 60


def test_mask_comes_from_the_gradient_and_weight_at_the_refresh(quadratic) -> None:
    loss = quadratic(D)
    stage = make(ratio=0.25)
    expected = prune_mask(z_pruning_score(start(), loss.gradient(start())[1]), 0.25)
    stage.step(loss)
    assert torch.equal(stage.mask, expected)
    assert float(stage.mask.mean()) == 0.75


def test_magnitude_pruning_drops_the_smallest_weights_without_queries(quadratic) -> None:
    loss = quadratic(D)
    stage = make(pruning="magnitude", ratio=0.5)
    stage.step(loss)
    assert loss.queries == 2
    assert set(start()[stage.mask == 0].tolist()) == set(sorted(start().tolist(), key=abs)[:4])


@pytest.mark.parametrize(("ratio", "d", "dropped"), [(0.29, 100, 29), (0.57, 100, 57), (0.5, 511, 255)])
def test_share_is_floored_in_decimal(ratio: float, d: int, dropped: int) -> None:
    assert int((prune_mask(torch.arange(float(d)), ratio) == 0).sum()) == dropped


def test_magnitude_refresh_clears_masked_entries_of_the_buffer(quadratic) -> None:
    buffer = torch.ones(D, dtype=torch.float64)
    stage = released("gradient-buffer", pruning="magnitude", buffer=buffer)
    stage.step(quadratic(D))
    assert torch.equal(stage.solution != start(), stage.mask.bool())


@pytest.mark.parametrize(("pruning", "refresh"), [("zscore", 2 * D), ("magnitude", 0), ("none", 0)])
def test_num_queries_is_what_steps_cost(quadratic, pruning: str, refresh: int) -> None:
    loss = quadratic(D)
    stage = make(pruning=pruning, interval=3, q=2)
    announced = stage.num_queries(7)
    each = []
    for _ in range(7):
        before = loss.queries
        next_step = stage.num_queries(1)
        stage.step(loss)
        each.append(loss.queries - before)
        assert each[-1] == next_step
    assert each == [4 + refresh, 4, 4, 4 + refresh, 4, 4, 4 + refresh]
    assert announced == sum(each)


def test_descends_on_a_quadratic(quadratic) -> None:
    stage = make(lr=0.02, interval=20)
    first = float(quadratic(D)(stage.solution[None]))
    for _ in range(600):
        stage.step(quadratic(D))
    assert float(quadratic(D)(stage.solution[None])) < first / 20


def test_gradient_buffer_adds_up_and_a_refresh_overwrites_it(quadratic) -> None:
    loss, lr = quadratic(D), 0.01
    first = torch.full((D,), 0.5, dtype=torch.float64)
    stage = released("gradient-buffer", lr=lr, pruning="none", buffer=first)
    plain = make(lr=lr, pruning="none")
    plain.step(loss)
    stage.step(loss)
    torch.testing.assert_close(stage.solution, plain.solution - lr * first, rtol=0, atol=1e-12)
    buffered = stage.buffer.clone()
    w = stage.solution
    stage.step(loss)
    assert not torch.equal(stage.buffer, buffered)
    torch.testing.assert_close(stage.solution, w - lr * stage.buffer, rtol=0, atol=1e-12)

    sparse = released("gradient-buffer", lr=lr, buffer=100 * first)
    sparse.step(loss)
    assert sparse.buffer.abs().max() < 50
    assert torch.equal(sparse.buffer != 0, sparse.mask.bool())


def test_matrix_w_broadcasts_at_the_first_step_and_is_evaluated_by_its_row_mean(quadratic) -> None:
    loss = quadratic(D)
    gradient = torch.linspace(0, 1, D, dtype=torch.float64)
    stage = released("gradient-buffer", "matrix-w", pruning="none", buffer=gradient, rows=5)
    stage.step(loss)
    assert stage.w.shape == (5, D)
    stage.step(loss)
    assert loss.batches[1].shape == (2, D)
    torch.testing.assert_close(loss.batches[1].mean(0), torch.stack([stage.w + stage.lr * stage.buffer]).mean((0, 1)))
    torch.testing.assert_close(stage.solution, stage.w.mean(0))


def test_keep_lowest_keeps_the_complement_of_the_papers_drop(quadratic) -> None:
    paper, other = make(ratio=0.25), released("keep-lowest", ratio=0.25)
    paper.step(quadratic(D))
    other.step(quadratic(D))
    assert torch.equal(other.mask, 1 - paper.mask)
    assert int(other.mask.sum()) == 2 == other.masked.rule.num_kept(D)


def test_released_score_standardizes_the_absolute_gradient(quadratic) -> None:
    stage = released("abs-score", ratio=0.25)
    stage.step(quadratic(D))
    g = quadratic(D).gradient(start())[1].abs()
    score = start().square() * (g - g.mean()) / g.std(correction=0)
    assert torch.equal(stage.mask, prune_mask(score, 0.25))
