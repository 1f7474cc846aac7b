"""The zeroth-order optimizers: one step of each against values computed by hand, and their rates on a quadratic."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainers.test_every_trainer import toy_problem
from trainers import TRAINERS, registered
from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.estimators import CGE, RGE, ForwardGradient
from trainers.blackbox.masks import MagnitudePruning, Masked
from trainers.optimizer import Descent
from trainers.updates import SGD, Adam, Momentum, Sign, Update
from trainers.zeroth_order.descent import ZOConservative
from trainers.zeroth_order.lozo import LOZO
from trainers.zeroth_order.polystep import PolyStep
from trainers.zeroth_order.rank_sgd import RankSGD
from trainers.zeroth_order.spsa import SPSA
from utils.settings import Config

MU = 0.01


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Bowl:
    """L(w) = ½ Σ c_i w_i²: central differences are exact on it."""

    def __init__(self, *curvature: float):
        self.c = vector(*curvature)

    def __call__(self, W: Tensor, mu: float | None = None) -> Tensor:
        return 0.5 * (self.c * W.square()).sum(1)

    def jvp(self, w: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        return self(w[None])[0], tangents @ (self.c * w)


# c = (1, 2), so that at w = (1, 1) the gradient is (1, 2)
BOWL = Bowl(1.0, 2.0)
ONES = vector(1.0, 1.0)


def given(*draws: Tensor) -> Callable[..., Tensor]:
    """normal(*shape) that hands out these tensors in turn, again and again."""
    count = iter(range(10**9))

    def normal(*shape: int) -> Tensor:
        draw = draws[next(count) % len(draws)]
        assert draw.shape == shape
        return draw

    return normal


def rge_descent(w0: Tensor, update: Update, normal: Callable[..., Tensor], **options) -> Descent:
    return Descent(w0, estimator=RGE(mu=MU, normal=normal, **options), update=update)


def mezo(w0: Tensor, lr: float, normal: Callable[..., Tensor], q: int = 1) -> Descent:
    return rge_descent(w0, SGD(lr=lr), normal, q=q)


def sparse_mezo(w0: Tensor, lr: float, normal: Callable[..., Tensor], interval: int = 200) -> Descent:
    rule = MagnitudePruning(ratio=0.5, keep_small=True)
    return Descent(w0, estimator=Masked(RGE(mu=MU, normal=normal), rule=rule, interval=interval), update=SGD(lr=lr))


def cge_descent(w0: Tensor, lr: float, **options) -> Descent:
    return Descent(w0, estimator=CGE(**options), update=SGD(lr=lr))


def conservative(lr: float, normal: Callable[..., Tensor]) -> ZOConservative:
    return ZOConservative(ONES, estimator=RGE(mu=MU, normal=normal), update=SGD(lr=lr))


def stepped(optimizer, loss=BOWL, steps: int = 1) -> list[float]:
    for _ in range(steps):
        optimizer.step(loss)
    return optimizer.solution.tolist()


# one step, by hand


def test_mezo_averages_slopes_times_directions() -> None:
    # slopes 1·1 − 2·1 = −1 and 0.5: ĝ = ½ [(−1, 1) + (0.25, 0)]
    u = torch.stack([vector(1.0, -1.0), vector(0.5, 0.0)])
    assert stepped(mezo(ONES, 0.1, given(u), q=2)) == pytest.approx([1.0375, 0.95])


def test_sparse_mezo_moves_the_small_coordinate_alone() -> None:
    # the mask keeps the second: u = (0, 2), slope 2 · 0.5 · 2 = 2
    optimizer = sparse_mezo(vector(1.0, 0.5), 0.1, given(vector(3.0, 2.0)[None]))
    assert stepped(optimizer) == pytest.approx([1.0, 0.1])


def test_sparse_mezo_ranks_magnitudes_anew_every_interval() -> None:
    # the first step takes the second coordinate from 0.5 past the first: 0.5 + 1 · 2 · 0.5 · 4 = 4.5 under a negative rate
    optimizer = sparse_mezo(vector(1.0, 0.5), -1.0, given(vector(3.0, 2.0)[None]), interval=2)
    assert stepped(optimizer) == pytest.approx([1.0, 4.5])
    assert stepped(optimizer)[0] == 1.0
    assert stepped(optimizer)[0] != 1.0


@pytest.mark.parametrize(("one_sided", "expected"), [(False, [0.9, 0.8]), (True, [0.875, 0.75])])
def test_cge_takes_central_or_forward_differences(one_sided: bool, expected: list[float]) -> None:
    # forward differences of step 0.5 add c_i · 0.25 to the gradient (1, 2)
    optimizer = cge_descent(ONES, 0.1, mu=0.5, one_sided=one_sided)
    assert stepped(optimizer) == pytest.approx(expected)
    assert optimizer.num_queries(3) == (9 if one_sided else 12)


@pytest.mark.parametrize("one_sided", [False, True])
def test_sparse_cge_moves_the_chosen_coordinates_alone(quadratic, one_sided: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    # ⌊0.34 · 6⌋ = 2
    optimizer = cge_descent(torch.zeros(6, dtype=torch.float64), 0.1, mu=MU, one_sided=one_sided, share=0.34, generator=generator)
    loss = quadratic(6)
    optimizer.step(loss)
    chosen = torch.randperm(6, generator=torch.Generator().manual_seed(5))[:2]
    assert (optimizer.solution != 0).nonzero().flatten().tolist() == sorted(chosen.tolist())
    assert loss.queries == optimizer.num_queries(1) == (3 if one_sided else 4)


def test_both_readings_of_sign() -> None:
    # u = (3, −1): slope 3 − 2 = 1, ĝ = (3, −1)
    u = given(vector(3.0, -1.0)[None])
    assert stepped(rge_descent(ONES, Sign(lr=0.1), u)) == pytest.approx([0.9, 1.1])
    assert stepped(rge_descent(ONES, SGD(lr=0.1), u, sign_of_slope=True)) == pytest.approx([0.7, 1.1])


def test_momentum_averages_estimates() -> None:
    # ĝ = (−1, 1), m = 0.1 ĝ; then ĝ = 0.97 (−1, 1), m = 0.9 · 0.1 + 0.1 · 0.97 = 0.187
    optimizer = rge_descent(ONES, Momentum(lr=0.1), given(vector(1.0, -1.0)[None]))
    assert stepped(optimizer) == pytest.approx([1.01, 0.99])
    assert stepped(optimizer) == pytest.approx([1.0287, 0.9713])


def test_adam_corrects_both_averages() -> None:
    # the first step is η sign(ĝ); then ĝ = 0.7 (−1, 1): m̂ = 0.16 / 0.19, v̂ = 0.001489 / 0.001999
    optimizer = rge_descent(ONES, Adam(lr=0.1), given(vector(1.0, -1.0)[None]))
    assert stepped(optimizer) == pytest.approx([1.1, 0.9])
    assert stepped(optimizer) == pytest.approx([1.1975721, 0.8024279], abs=1e-6)


def test_conservative_moves_only_if_the_loss_falls() -> None:
    u = given(vector(1.0, -1.0)[None])
    assert stepped(conservative(0.1, u)) == pytest.approx([1.1, 0.9])
    assert stepped(conservative(10.0, u)) == [1.0, 1.0]


def test_conservative_takes_the_opposite_step_if_it_is_best() -> None:
    # a slope of −1 along (1, −1), then losses of w, w − ηĝ, w + ηĝ
    losses = iter([vector(0.0, 2 * MU), vector(2.0, 3.0, 1.0)])
    optimizer = conservative(0.1, given(vector(1.0, -1.0)[None]))
    assert stepped(optimizer, lambda W, mu=None: next(losses)) == pytest.approx([0.9, 1.1])
    assert optimizer.num_queries(1) == 5


def test_forward_gradient_uses_exact_slopes() -> None:
    assert stepped(
        Descent(ONES, estimator=ForwardGradient(normal=given(vector(1.0, -1.0)[None])), update=SGD(lr=0.1))
    ) == pytest.approx([1.1, 0.9])


def test_lozo_perturbs_by_a_product_of_two_thin_factors() -> None:
    # U Vᵀ = [[1, 2], [−1, −2]], slope 1 − 2 = −1 at the identity
    V, U = vector(1.0, 2.0)[:, None], vector(1.0, -1.0)[:, None]
    optimizer = LOZO(torch.eye(2, dtype=torch.float64), lr=0.1, mu=MU, normal=given(V, U), rank=1)
    assert stepped(optimizer, Bowl(1, 1, 1, 1)) == pytest.approx([1.1, 0.2, -0.1, 0.8])
    # of rank 2: V = I, so U Vᵀ = U, slope 1 − 2 = −1, and half of it is taken
    draws = given(torch.eye(2, dtype=torch.float64), torch.diag(vector(1.0, -2.0)))
    optimizer = LOZO(torch.eye(2, dtype=torch.float64), lr=0.1, mu=MU, normal=draws, rank=2)
    assert stepped(optimizer, Bowl(1, 1, 1, 1)) == pytest.approx([1.05, 0.0, 0.0, 0.9])


def test_lozo_keeps_one_factor_for_its_interval() -> None:
    shapes = []

    def normal(*shape: int) -> Tensor:
        shapes.append(shape)
        return torch.ones(shape, dtype=torch.float64)

    stepped(LOZO(torch.ones(3, 5, dtype=torch.float64), lr=0.001, mu=MU, normal=normal, interval=4), Bowl(*[1.0] * 15), steps=8)
    assert [i for i, shape in enumerate(shapes) if shape == (5, 2)] == [0, 5]
    assert shapes.count((3, 2)) == 8


@pytest.mark.parametrize("particles", [1, 3])
def test_polystep_moves_to_the_barycenter_of_its_vertices(quadratic, particles: int) -> None:
    d, radius, temperature, loss = 4, 0.7, 0.3, quadratic(4)
    w0 = torch.linspace(0, 1, d, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    optimizer = PolyStep(w0, radius=radius, temperature=temperature, particles=particles, generator=generator)
    optimizer.step(loss)
    (queried,) = loss.batches
    vertices = queried.view(particles, 2 * d, d)
    arms = (vertices - w0) / radius
    torch.testing.assert_close(arms[:, :d], -arms[:, d:])
    torch.testing.assert_close(arms[:, :d] @ arms[:, :d].mT, torch.eye(d, dtype=w0.dtype).expand(particles, d, d))
    losses = quadratic(d)(queried)
    above = losses - losses.min()
    weights = torch.softmax(-above.view(particles, -1) / above.mean() / temperature, dim=1)
    torch.testing.assert_close(optimizer.solution, (weights[..., None] * vertices).sum(1).mean(0))


def test_rank_sgd_pairs_points_by_their_ranks_and_searches_along_the_line() -> None:
    # losses 1.605, 1.71, 1.405: pairs (3, 1), (3, 2), (1, 2); ĝ = [(2, 0) + (1, 1) + (−1, 1)] / 3
    u = torch.stack([vector(1.0, 0.0), vector(0.0, 1.0), vector(-1.0, 0.0)])
    optimizer = RankSGD(ONES, lr=1.0, mu=0.1, normal=given(u), m=3, n=3, decay=0.5)
    assert stepped(optimizer) == pytest.approx([1 / 3, 1 / 3])
    assert optimizer.num_queries(1) == 6


def test_rank_sgd_stays_if_no_candidate_is_better() -> None:
    u = torch.stack([vector(1.0, 0.0), vector(0.0, 1.0)])
    assert RankSGD.rank_gradient(u, vector(1.0, 1.0)).tolist() == [0.0, 0.0]
    assert stepped(RankSGD(ONES, lr=-1.0, mu=0.1, normal=given(u), m=2)) == [1.0, 1.0]


def test_spsa_divides_by_the_perturbation_and_clips_at_the_root_of_d() -> None:
    # Δ = (1, ½): difference quotient 1 + 1 = 2, ĝ = (2, 4); a_1 = 0.1 / 2^0.4
    rate = 0.1 / 2**0.4
    optimizer = SPSA(ONES, perturb=lambda q: vector(1.0, 0.5)[None], q=1, a=0.1)
    assert stepped(optimizer) == pytest.approx([1 - 2 * rate, 1 - 4 * rate])
    optimizer = SPSA(ONES, perturb=lambda q: vector(1.0, 0.5)[None], q=1, a=0.1, clip=True)
    cut = math.sqrt(2) / math.sqrt(20)
    assert stepped(optimizer) == pytest.approx([1 - 2 * cut * rate, 1 - 4 * cut * rate])


# rates


def noise(seed: int = 0) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def exact(q: int, d: int) -> Tensor:
    """Directions √d e_j, along which q = d samples give the gradient itself."""
    assert q == d
    return math.sqrt(d) * torch.eye(d, dtype=torch.float64)


def mean_contraction(optimizer, start: Tensor, loss, trials: int = 6000) -> float:
    """E‖w₁‖² / ‖w₀‖² of single steps from `start`."""
    total = 0.0
    for _ in range(trials):
        optimizer.w = start.clone()
        optimizer.step(loss)
        total += float(optimizer.w.square().sum())
    return total / trials / float(start.square().sum())


@pytest.mark.parametrize("q", [1, 4])
@pytest.mark.parametrize("name", ["mezo", "forward-gradient"])
def test_gaussian_directions_contract_a_sphere_at_the_known_rate(name: str, q: int) -> None:
    # E‖w₁‖²/‖w₀‖² = 1 − 2η + η² (q + d + 1)/q, since E[uuᵀ‖u‖²] = (d + 2) I
    d, lr = 6, 0.1
    start, loss = torch.linspace(-1, 2, d, dtype=torch.float64), Bowl(*[1.0] * d)
    estimator = RGE(mu=MU, normal=noise(), q=q) if name == "mezo" else ForwardGradient(normal=noise(), q=q)
    optimizer = Descent(start, estimator=estimator, update=SGD(lr=lr))
    assert mean_contraction(optimizer, start, loss) == pytest.approx(1 - 2 * lr + lr**2 * (q + d + 1) / q, rel=0.02)


def test_a_mask_contracts_its_own_coordinates_at_the_rate_of_its_size() -> None:
    start, lr = vector(3.0, 0.5, -0.5, 2.0), 0.1
    optimizer = sparse_mezo(start, lr, noise(), interval=10**6)
    small = 0.5
    contraction = mean_contraction(optimizer, start, Bowl(*[1.0] * 4))
    expected = (13.0 + small * (1 - 2 * lr + lr**2 * 4)) / 13.5
    assert 1 - contraction == pytest.approx(1 - expected, rel=0.05)


def test_lozo_of_rank_one_contracts_at_its_known_rate() -> None:
    # 1 − 2η + η² (m + 2)(n + 2)
    start, lr = torch.linspace(-1, 2, 6, dtype=torch.float64).view(2, 3), 0.02
    optimizer = LOZO(start, lr=lr, mu=MU, normal=noise(), rank=1, interval=1)
    assert mean_contraction(optimizer, start.flatten(), Bowl(*[1.0] * 6)) == pytest.approx(1 - 2 * lr + lr**2 * 20, rel=0.01)


def test_cge_is_gradient_descent_on_a_quadratic() -> None:
    c = (0.5, 1.0, 3.0)
    w = stepped(cge_descent(vector(1.0, -2.0, 1.0), 0.2, mu=0.1), Bowl(*c), steps=7)
    assert w == pytest.approx([x * (1 - 0.2 * k) ** 7 for x, k in zip((1.0, -2.0, 1.0), c, strict=True)])


def test_momentum_has_the_rate_of_its_recursion() -> None:
    # (w, m) ← [[1 − ηc(1 − β), −ηβ], [c(1 − β), β]] (w, m) for each coordinate
    c, lr, beta = 2.0, 0.3, 0.9
    matrix = np.array([[1 - lr * c * (1 - beta), -lr * beta], [c * (1 - beta), beta]])
    expected = (np.linalg.matrix_power(matrix, 25) @ [1.0, 0.0])[0]
    optimizer = rge_descent(ONES, Momentum(lr=lr, beta1=beta), exact, q=2)
    assert stepped(optimizer, Bowl(c, c), steps=25) == pytest.approx([expected, expected])


@pytest.mark.parametrize("update", [Sign, Adam])
def test_signed_steps_cover_the_distance_whatever_the_curvature(update) -> None:
    w = stepped(rge_descent(ONES, update(lr=0.01), exact, q=2), Bowl(1e-3, 1e3), steps=50)
    assert w[0] == pytest.approx(w[1], abs=1e-4)
    assert w[0] == pytest.approx(0.5, abs=0.1)


def test_conservative_never_ascends_with_a_step_size_at_which_sgd_diverges() -> None:
    loss = Bowl(1.0, 30.0)
    optimizer, values = conservative(0.1, noise()), [float(loss(ONES[None]))]
    for _ in range(200):
        optimizer.step(loss)
        values.append(float(loss(optimizer.solution[None])))
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] / 100
    assert float(loss(torch.tensor(stepped(mezo(ONES, 0.1, noise()), loss, 200))[None])) > values[0]


def test_rank_sgd_takes_the_same_path_under_any_monotone_loss(quadratic) -> None:
    loss, start = quadratic(5), torch.zeros(5, dtype=torch.float64)
    plain, warped = (RankSGD(start, lr=1.0, mu=0.1, normal=noise()) for _ in range(2))
    for _ in range(30):
        plain.step(loss)
        warped.step(lambda W, mu=None: loss(W).exp() ** 3)
    assert torch.equal(plain.solution, warped.solution)
    assert float(loss(plain.solution[None])) < float(loss(start[None])) / 10


def test_polystep_goes_straight_down_a_slope(quadratic) -> None:
    # of a linear loss only the component along its gradient has another mean than 0
    d, slope = 16, torch.linspace(-1, 1, 16, dtype=torch.float64)
    optimizer = PolyStep(
        torch.zeros(d, dtype=torch.float64), radius=1.0, temperature=0.5, generator=torch.Generator().manual_seed(0)
    )
    for _ in range(300):
        optimizer.step(lambda W: W @ slope)
    cosine = -(optimizer.solution @ slope) / optimizer.solution.norm() / slope.norm()
    assert cosine > 0.98


def sep_or_full(diagonal: bool) -> float:
    """The loss that 250 generations leave of a separable bowl of condition 10⁶ in 20 dimensions."""
    generator = np.random.Generator(np.random.PCG64(0))
    start = torch.ones(20, dtype=torch.float64)
    es = CMAES(start, sigma=0.5, popsize=12, normal=lambda n, d: generator.standard_normal((n, d)), diagonal=diagonal)
    loss = Bowl(*(10 ** (6 * i / 19) for i in range(20)))
    for _ in range(250):
        candidates = es.ask()
        es.tell(candidates, loss(candidates))
    return float(loss(es.mean[None]))


def test_diagonal_covariance_learns_a_separable_scale_sooner_than_a_full_one() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert sep_or_full(True) < sep_or_full(False) / 100
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_sep_cma_is_the_diagonal_variant_without_a_shift(quadratic) -> None:
    config = Config(popsize=6, rho=0.5, init_std=0.0)
    optimizer = registered(TRAINERS["sep-cma"].build)(config, toy_problem(config, d=5))
    loss = quadratic(5)
    optimizer.step(loss)
    assert optimizer.inner.es.opts["CMA_diagonal"] is True
    assert loss.queries == optimizer.num_queries(1) == 6
    # evaluated where they were drawn: the population has the spread that CMA-ES gave it, with no common shift
    assert loss.batches[0].shape == (6, 5)
