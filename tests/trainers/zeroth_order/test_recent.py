"""The optimizers of 2025 and 2026 and the classical references: the identities that pin each rule."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from trainers.blackbox.estimators import CGE, ForwardMode
from trainers.optimizer import Descent
from trainers.updates import SGD, Adam, RefinedAdam
from trainers.zeroth_order.bszo import KalmanSlopes
from trainers.zeroth_order.conmezo import ConMeZO
from trainers.zeroth_order.curvzo import CurvZO, inclusion_probabilities
from trainers.zeroth_order.guided_es import GuidedES
from trainers.zeroth_order.lbfgs import LBFGS
from trainers.zeroth_order.loren import LOREN
from trainers.zeroth_order.plain_cma import default_popsize
from trainers.zeroth_order.population import FZOO, RankedES, SphereDifferences, ZoAR, rademacher
from trainers.zeroth_order.sharpness import ZOSA, TiltedSAM

D = 12
W = torch.linspace(-1.0, 2.0, D, dtype=torch.float64)
SLOPE = torch.linspace(0.5, 1.5, D, dtype=torch.float64)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(seed: int = 1) -> Callable[..., Tensor]:
    generator = seeded(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def bowl(W: Tensor, mu: float | None = None) -> Tensor:
    return (SLOPE * W.square()).sum(1)


def plane(W: Tensor, mu: float | None = None) -> Tensor:
    return W @ SLOPE


def scaled(loss: Callable[..., Tensor], factor: float, offset: float) -> Callable[..., Tensor]:
    return lambda W, mu=None: factor * loss(W) + offset


def flat(W: Tensor, mu: float | None = None) -> Tensor:
    return torch.full((len(W),), 3.0, dtype=torch.float64)


def test_fzoo_ignores_scale_and_offset_of_the_loss() -> None:
    estimates = [FZOO(mu=1e-3, probes=8, generator=seeded())(loss, W).gradient for loss in (bowl, scaled(bowl, 7.0, 2.0))]
    torch.testing.assert_close(*estimates, rtol=1e-6, atol=1e-9)
    assert float(estimates[0].norm()) > 0


def test_fzoo_on_equal_losses_does_not_move() -> None:
    assert not FZOO(mu=1e-3, probes=8, generator=seeded())(flat, W).gradient.any()


def test_fzoo_is_the_mean_of_standardized_differences() -> None:
    u = rademacher((4, D), seeded())
    losses = bowl(W + 0.1 * u)
    expected = ((losses - bowl(W[None])) / losses.std(correction=1))[:, None].mul(u).mean(0)
    torch.testing.assert_close(FZOO(mu=0.1, probes=4, generator=seeded())(bowl, W).gradient, expected)


def test_first_r_adazo_step_has_the_same_length_in_every_coordinate() -> None:
    update = RefinedAdam(lr=0.01, beta1=0.9, beta2=0.99, epsilon=0.0)
    update.start(W)
    torch.testing.assert_close(update(SLOPE - 1, W), 0.01 / math.sqrt(1 - 0.99) * (SLOPE - 1).sign())


def test_bias_correction_frees_the_first_r_adazo_step_of_beta2() -> None:
    for beta2 in (0.9, 0.999):
        update = RefinedAdam(lr=0.01, beta1=0.9, beta2=beta2, epsilon=0.0, bias_correction=True)
        update.start(W)
        # v averages the squares of m, which is (1 − β₁) g at first
        torch.testing.assert_close(update(SLOPE - 1, W), 0.01 / (1 - 0.9) * (SLOPE - 1).sign())


def test_r_adazo_without_momentum_is_rms_prop() -> None:
    update, v = RefinedAdam(lr=0.01, beta1=0.0, beta2=0.9, epsilon=0.0), torch.zeros(D, dtype=torch.float64)
    update.start(W)
    for gradient in (SLOPE, -2 * SLOPE, W + 0.1):
        v = 0.9 * v + 0.1 * gradient.square()
        torch.testing.assert_close(update(gradient, W), 0.01 * gradient / v.sqrt())


def test_sphere_differences_estimate_the_gradient_of_a_plane() -> None:
    estimator = SphereDifferences(mu=1e-3, probes=20_000, normal=gaussian())
    torch.testing.assert_close(estimator(plane, W).gradient, SLOPE, rtol=0, atol=0.15)


def test_ranked_es_depends_on_comparisons_alone() -> None:
    monotone = lambda W, mu=None: bowl(W).exp()  # noqa: E731
    first, second = (RankedES(sigma=0.1, pairs=6, normal=gaussian())(loss, W).gradient for loss in (bowl, monotone))
    assert torch.equal(first, second)
    assert float(first @ (SLOPE * W)) > 0


def test_ranked_es_weights_are_the_centered_ranks() -> None:
    e = gaussian()(2, D)
    losses = torch.cat([bowl(W + 0.1 * e), bowl(W - 0.1 * e)])
    ranks = losses.argsort().argsort() / 3 - 0.5
    expected = ((ranks[:2] - ranks[2:])[:, None] * e).sum(0) / 4
    torch.testing.assert_close(RankedES(sigma=0.1, pairs=2, normal=gaussian())(bowl, W).gradient, expected)


def test_zoar_without_history_is_an_es_with_a_mean_baseline() -> None:
    estimator, u = ZoAR(mu=0.1, probes=5, history=0, normal=gaussian()), gaussian()
    for _ in range(3):
        directions = u(5, D)
        losses = bowl(W + 0.1 * directions)
        expected = ((losses - losses.mean())[:, None] * directions).mean(0) / 0.1
        torch.testing.assert_close(estimator(bowl, W).gradient, expected)


def test_zoar_uses_the_probes_of_the_last_steps() -> None:
    estimator, u = ZoAR(mu=0.1, probes=2, history=1, normal=gaussian()), gaussian()
    for _ in range(3):
        estimator(bowl, W)
    directions = torch.cat([u(2, D) for _ in range(4)])[-4:]
    losses = bowl(W + 0.1 * directions)
    expected = ((losses - losses.mean())[:, None] * directions).mean(0) / 0.1
    torch.testing.assert_close(estimator(bowl, W).gradient, expected)


def test_zoar_on_equal_losses_does_not_move() -> None:
    assert not ZoAR(mu=0.1, probes=4, history=2, normal=gaussian())(flat, W).gradient.any()


def test_conmezo_at_a_right_angle_is_mezo() -> None:
    cone = ConMeZO(W, lr=0.01, mu=1e-3, normal=gaussian(), theta=math.pi / 2)
    normal, w = gaussian(), W.clone()
    for _ in range(5):
        u = normal(D)
        slope = (bowl((w + 1e-3 * u)[None]) - bowl((w - 1e-3 * u)[None])) / 2e-3
        w = w - 0.01 * slope * u
        cone.step(bowl)
    torch.testing.assert_close(cone.solution, w)


def test_conmezo_directions_have_expected_squared_norm_d_and_lie_around_the_momentum() -> None:
    cone = ConMeZO(W, lr=0.01, mu=1e-3, normal=gaussian(), theta=1.0)
    cone.m = SLOPE.clone()
    z = torch.stack([cone.direction() for _ in range(4000)])
    assert float(z.square().sum(1).mean()) == pytest.approx(D, rel=0.03)
    mean = z.mean(0)
    assert float(mean @ SLOPE / SLOPE.norm()) == pytest.approx(math.sqrt(D) * math.cos(1.0), rel=0.05)


def test_equal_scores_give_curvzo_uniform_probabilities() -> None:
    torch.testing.assert_close(
        inclusion_probabilities(torch.full((8,), 0.3, dtype=torch.float64), 2.0), torch.full((8,), 0.25, dtype=torch.float64)
    )


def test_curvzo_inclusion_probabilities_sum_to_the_expected_number_and_weights_are_unbiased() -> None:
    optimizer = CurvZO(W, lr=0.0, mu=1e-3, normal=gaussian(), generator=seeded(), share=0.5)
    optimizer.scores = torch.linspace(1.0, 2.0, D, dtype=torch.float64)
    draws = [optimizer.sample() for _ in range(4000)]
    assert float(draws[0][1].sum()) == pytest.approx(6.0, abs=1e-6)
    assert torch.stack([mask / pi for mask, pi in draws]).mean(0).tolist() == pytest.approx([1.0] * D, abs=0.1)


def test_curvzo_on_all_coordinates_takes_mezos_step() -> None:
    optimizer = CurvZO(W, lr=0.01, mu=1e-3, normal=gaussian(), generator=seeded(), share=1.0)
    u = gaussian()(D)
    slope = (bowl((W + 1e-3 * u)[None]) - bowl((W - 1e-3 * u)[None])) / 2e-3
    optimizer.step(bowl)
    torch.testing.assert_close(optimizer.solution, W - 0.01 * slope * u)


def test_guided_es_with_alpha_one_is_the_two_point_average_at_its_scale() -> None:
    sigma = 0.2
    estimator, normal, mu = (
        GuidedES(sigma=sigma, pairs=3, guides=1, alpha=1.0, normal=gaussian()),
        gaussian(),
        sigma / math.sqrt(D),
    )
    for _ in range(2):
        u = normal(3, D)
        slopes = (bowl(W + mu * u) - bowl(W - mu * u)) / (2 * mu)
        torch.testing.assert_close(estimator(bowl, W).gradient, (slopes[:, None] * u).mean(0))


def test_guided_es_probes_lie_in_the_span_of_its_past_estimates_as_alpha_vanishes() -> None:
    estimator = GuidedES(sigma=0.1, pairs=4, guides=1, alpha=1e-12, normal=gaussian())
    first = estimator(bowl, W).gradient
    probes = estimator.probes(D)
    cosines = (probes @ first / (probes.norm(dim=1) * first.norm())).abs()
    assert cosines.tolist() == pytest.approx([1.0] * 4, abs=1e-4)


def test_zosa_without_radius_estimates_at_w_itself() -> None:
    generator = seeded()
    u, v = (rademacher((6, D), generator) for _ in range(2))
    spread = bowl(W + 0.1 * u).std()
    expected = ((bowl(W + 0.1 * v) - bowl(W[None])) / spread)[:, None].mul(v).mean(0)
    torch.testing.assert_close(ZOSA(mu=0.1, probes=6, rho=0.0, generator=seeded())(bowl, W).gradient, expected)


def test_zosa_estimates_at_a_point_of_the_radius_where_the_loss_is_higher() -> None:
    points: list[Tensor] = []

    def watched(W: Tensor, mu: float | None = None) -> Tensor:
        points.append(W[0])
        return bowl(W)

    estimate = ZOSA(mu=1e-4, probes=50, rho=0.3, generator=seeded())(watched, W)
    assert float((points[1] - points[0]).norm()) == pytest.approx(0.3)
    assert estimate.figures["sharpness"] > 0


def test_tilted_sam_is_the_two_point_average_as_the_tilt_vanishes() -> None:
    v = gaussian()(5, D)
    slopes = (bowl(W + 0.1 * v) - bowl(W - 0.1 * v)) / 0.2
    estimate = TiltedSAM(rho=0.1, tilt=1e-6, pairs=5, normal=gaussian())(bowl, W)
    torch.testing.assert_close(estimate.gradient, (slopes[:, None] * v).mean(0), rtol=1e-4, atol=1e-6)


def test_tilted_sam_ignores_an_offset_of_the_loss_even_a_large_one() -> None:
    estimates = [TiltedSAM(rho=0.1, tilt=10.0, pairs=5, normal=gaussian())(loss, W) for loss in (bowl, scaled(bowl, 1.0, 1e4))]
    torch.testing.assert_close(estimates[0].gradient, estimates[1].gradient, rtol=1e-6, atol=1e-6)


def test_loren_with_a_vanishing_direction_is_the_leave_one_out_estimate() -> None:
    optimizer, normal = LOREN(W, lr=0.01, mu=0.1, normal=gaussian(), probes=6, beta=0.0, direction_lr=0.0), gaussian()
    optimizer.a = optimizer.a * 1e-6
    normal(D)
    u = normal(6, D)
    # the formula's square root of the covariance mirrors the probes at a, which changes nothing in distribution
    u = u - 2 * (u @ optimizer.a)[:, None] * optimizer.a / optimizer.a.square().sum()
    losses = bowl(W + 0.1 * u)
    others = torch.stack([losses[torch.arange(6) != k].mean() for k in range(6)])
    expected = ((losses - others)[:, None] * u).mean(0) / 0.1
    optimizer.step(bowl)
    torch.testing.assert_close((W - optimizer.solution) / 0.01, expected, rtol=1e-5, atol=1e-5)


def test_loren_probes_have_the_covariance_of_its_model() -> None:
    seen: list[Tensor] = []

    def watched(W: Tensor, mu: float | None = None) -> Tensor:
        seen.append(W)
        return flat(W)

    optimizer = LOREN(W, lr=0.0, mu=1.0, normal=gaussian(), probes=20_000, damping=0.5, direction_lr=0.0)
    optimizer.a = torch.zeros(D, dtype=torch.float64)
    optimizer.a[0] = 2.0
    optimizer.step(watched)
    covariance = (seen[0] - W).T.cov()
    assert float(covariance[0, 0]) == pytest.approx(0.5 / (0.5 + 4.0), rel=0.05)
    assert float(covariance[1, 1]) == pytest.approx(1.0, rel=0.05)


def test_loren_ignores_an_offset_of_the_loss() -> None:
    first, second = (LOREN(W, lr=0.01, mu=0.1, normal=gaussian()) for _ in range(2))
    for _ in range(3):
        first.step(bowl)
        second.step(scaled(bowl, 1.0, 100.0))
    torch.testing.assert_close(first.solution, second.solution, rtol=1e-8, atol=1e-8)


def test_bszo_with_a_fixed_noise_shrinks_the_slopes_by_one_factor() -> None:
    estimator = KalmanSlopes(mu=1e-4, probes=3, alpha=0.0, normal=gaussian(), extra=0)
    slopes = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    estimator.prior, estimator.noise = float(slopes.square().mean()), 0.7
    gamma = estimator.prior / (estimator.prior + 0.7)
    torch.testing.assert_close(estimator.fuse(slopes), gamma * slopes)


def test_bszo_without_noise_is_the_one_sided_slope() -> None:
    estimator = KalmanSlopes(mu=1e-4, probes=1, alpha=0.0, normal=gaussian(), extra=0)
    estimator.prior, estimator.noise = 1.0, 0.0
    z = gaussian()(1, D)
    slope = (bowl(W + 1e-4 * z) - bowl(W[None])) / 1e-4
    torch.testing.assert_close(estimator(bowl, W).gradient, slope[0] * z[0])


def test_lbfgs_reaches_the_minimum_of_a_quadratic_in_less_than_a_hundred_gradients() -> None:
    d = 512
    curvature = torch.from_numpy(np.geomspace(1.0, 10.0, d))
    gradients = 0

    class Bowl:
        def __call__(self, W: Tensor, mu: float | None = None) -> Tensor:
            return 0.5 * (curvature * W.square()).sum(1)

        def jvp(self, w: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal gradients
            gradients += 1
            return self(w[None])[0], tangents @ (curvature * w)

    optimizer = LBFGS(torch.ones(d, dtype=torch.float64), estimator=ForwardMode())
    while optimizer.best_loss > 1e-8 and gradients < 100:
        optimizer.step(Bowl())
    assert optimizer.best_loss <= 1e-8
    assert gradients < 100


def test_lbfgs_counts_line_search_evaluations_and_keeps_the_best_point() -> None:
    asked: list[int] = []

    def counted(W: Tensor, mu: float | None = None) -> Tensor:
        asked.append(len(W))
        return bowl(W)

    optimizer = LBFGS(W, estimator=CGE(mu=1e-4))
    losses = []
    for _ in range(30):
        planned = optimizer.num_queries(1)
        asked.clear()
        losses.append(optimizer.step(counted)["loss"])
        assert sum(asked) == planned == 2 * D + 1
    assert float(bowl(optimizer.solution[None])) == min(losses)


def test_lbfgs_continues_after_scipy_has_given_up() -> None:
    optimizer = LBFGS(torch.zeros(D, dtype=torch.float64), estimator=CGE(mu=1e-4))
    # at the exact minimum scipy ends at once, since the gradient is zero
    assert [optimizer.step(bowl)["best_loss"] for _ in range(5)] == [0.0] * 5


def test_adam_on_coordinate_wise_differences_follows_the_exact_gradient() -> None:
    by_cge = Descent(W, estimator=CGE(mu=1e-4), update=Adam(lr=0.05))
    exact, w = Adam(lr=0.05), W.clone()
    exact.start(w)
    for _ in range(20):
        by_cge.step(bowl)
        w = w - exact(2 * SLOPE * w, w)
    torch.testing.assert_close(by_cge.solution, w, rtol=1e-5, atol=1e-5)


def test_pycmas_own_population_size() -> None:
    assert [default_popsize(d) for d in (3, 256, 512)] == [7, 20, 22]


@pytest.mark.parametrize(
    "make",
    [
        lambda: FZOO(mu=0.1, probes=8, generator=seeded()),
        lambda: SphereDifferences(mu=0.1, probes=8, normal=gaussian()),
        lambda: RankedES(sigma=0.1, pairs=4, normal=gaussian()),
        lambda: ZoAR(mu=0.1, probes=8, history=2, normal=gaussian()),
        lambda: GuidedES(sigma=0.1, pairs=4, guides=1, alpha=0.5, normal=gaussian()),
        lambda: ZOSA(mu=0.1, probes=8, rho=0.1, generator=seeded()),
        lambda: TiltedSAM(rho=0.1, tilt=1.0, pairs=4, normal=gaussian()),
        lambda: KalmanSlopes(mu=0.1, probes=4, alpha=0.1, normal=gaussian()),
    ],
    ids=["fzoo", "r-adazo", "openai-es", "zoar", "guided-es", "zosa", "zest", "bszo"],
)
def test_masked_coordinates_never_move(make: Callable) -> None:
    mask = (torch.arange(D) % 3 == 0).to(W)
    estimator, w = make(), W.clone()
    for _ in range(4):
        w = w - SGD(lr=0.01)(estimator(bowl, w, mask).gradient, w)
    assert torch.equal(w[mask == 0], W[mask == 0])
    assert bool((w[mask == 1] != W[mask == 1]).all())
