"""Gradient estimates: the points that they query, what they cost, and how close they come to the true gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clip.backbone import Backbone
from clip.prompt import context_embeddings, make_projection
from clip.text import TextFeatures
from tests.conftest import CLASSNAMES, Quadratic
from trainers.blackbox.gradients import cge, rge
from trainers.blackbox.objective import Objective
from trainers.blackbox.samples import Samples
from trainers.blackbox.text_prompt import TextPrompt

D = 6
MakeQuadratic = Callable[[int], Quadratic]


def vector(d: int = D, seed: int = 0) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(q: int, d: int = D, seed: int = 1) -> Tensor:
    return torch.randn(q, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tiny_objective(backbone: Backbone, engine: str) -> Objective:
    generator = torch.Generator().manual_seed(3)
    projection = make_projection(context_embeddings(backbone, "a photo of a"), D, 0.2, generator)
    text = TextFeatures(backbone, CLASSNAMES, "a photo of a", 1 << 30, engine)
    images = Samples(
        F.normalize(torch.randn(16, 24, generator=generator), dim=-1), torch.randint(len(CLASSNAMES), (16,), generator=generator)
    )
    model = TextPrompt(
        projection.contexts, text_features=text, logit_scale=backbone.logit_scale, classes=len(CLASSNAMES), width=24
    )
    return Objective(model, lambda: images, "float64")


class Recorder:
    """The loss is the number of the row, so that an estimate shows which row it uses for which point."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, float | None]] = []

    def __call__(self, W: Tensor, mu: float | None = None) -> Tensor:
        self.calls.append((W.clone(), mu))
        return torch.arange(len(W), dtype=torch.float64) ** 2


# CGE


@pytest.mark.parametrize("engine", ["fast", "stock"])
def test_cge_equals_autograd_on_clip(tiny_backbone: Backbone, engine: str) -> None:
    w = vector()
    loss, expected = tiny_objective(tiny_backbone, "stock").gradient(w)
    gradient, mean = cge(tiny_objective(tiny_backbone, engine), w, 1e-5)
    assert expected.norm() > 1e-3
    assert (gradient - expected).norm() <= 1e-6 * expected.norm()
    assert mean == pytest.approx(loss.item(), abs=1e-8)


@pytest.mark.parametrize("mu", [0.5, 1e-3])
def test_cge_of_a_quadratic_is_exact_to_rounding(quadratic: MakeQuadratic, mu: float) -> None:
    loss, w = quadratic(D), vector()
    gradient, mean = cge(loss, w, mu)
    value, expected = loss.gradient(w)
    # a loss of about 5 is rounded at 1e-15, and the difference divides that by mu
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14 / mu)
    assert mean == pytest.approx(value.item() + 0.5 * mu**2 * loss.curvature.mean().item(), abs=1e-13)


def test_cge_queries_w_plus_and_then_minus_mu_along_each_axis_in_one_call() -> None:
    loss, w, mu = Recorder(), vector(), 1e-3
    before = w.clone()
    gradient, mean = cge(loss, w, mu)
    expected = []
    for sign in (1, -1):
        for i in range(D):
            point = w.clone()
            point[i] += sign * mu
            expected.append(point)
    [(queried, step)] = loss.calls
    assert queried.dtype == torch.float64
    assert torch.equal(queried, torch.stack(expected))
    assert step == mu
    assert torch.equal(w, before)
    losses = [float(row**2) for row in range(2 * D)]
    slopes = [(losses[i] - losses[D + i]) / (2 * mu) for i in range(D)]
    torch.testing.assert_close(gradient, torch.tensor(slopes, dtype=torch.float64))
    assert mean == pytest.approx(sum(losses) / len(losses))


@pytest.mark.parametrize("d", [1, 6, 17])
def test_cge_costs_2d_queries(quadratic: MakeQuadratic, d: int) -> None:
    loss = quadratic(d)
    gradient, _ = cge(loss, vector(d), 1e-3)
    assert gradient.shape == (d,)
    assert loss.queries == 2 * d


# RGE


def test_rge_of_one_direction_is_its_formula(quadratic: MakeQuadratic) -> None:
    loss, w, mu = quadratic(D), vector(), 1e-2
    u = directions(1)
    gradient, mean = rge(loss, w, mu, u)
    plus, minus = loss((w + mu * u[0])[None])[0], loss((w - mu * u[0])[None])[0]
    torch.testing.assert_close(gradient, (plus - minus) / (2 * mu) * u[0], rtol=0, atol=1e-14)
    assert mean == pytest.approx((plus + minus).item() / 2, abs=1e-14)


def test_rge_averages_the_estimates_of_its_directions(quadratic: MakeQuadratic) -> None:
    loss, w, u = quadratic(D), vector(), directions(7)
    together = rge(loss, w, 1e-2, u)
    alone = [rge(loss, w, 1e-2, row[None]) for row in u]
    torch.testing.assert_close(together[0], torch.stack([g for g, _ in alone]).mean(0), rtol=0, atol=1e-12)
    assert together[1] == pytest.approx(sum(mean for _, mean in alone) / 7, abs=1e-12)


def test_rge_of_many_directions_tends_to_the_gradient_of_a_quadratic(quadratic: MakeQuadratic) -> None:
    loss, w, q = quadratic(D), vector(), 200_000
    gradient, _ = rge(loss, w, 1e-2, directions(q))
    _, expected = loss.gradient(w)
    # each (∇L·u) u with Gaussian u has the variance |∇L|² + (∇L_i)² in coordinate i
    std = ((expected.square().sum() + expected.square()) / q).sqrt()
    assert ((gradient - expected).abs() <= 4.5 * std).all()
    assert expected.abs().max() > 50 * std.max()


def test_masked_directions_give_the_masked_gradient(quadratic: MakeQuadratic) -> None:
    loss, w = quadratic(D), vector()
    mask = torch.tensor([1, 0, 0, 1, 1, 0], dtype=torch.float64)
    gradient, _ = rge(loss, w, 1e-2, directions(50_000) * mask)
    _, expected = loss.gradient(w)
    expected = expected * mask
    std = ((expected.square().sum() + expected.square()) / 50_000).sqrt()
    assert torch.equal(gradient[mask == 0], torch.zeros(3, dtype=torch.float64))
    assert ((gradient - expected).abs() <= 4.5 * std).all()
    assert all(torch.equal(row, w[mask == 0]) for row in loss.batches[0][:10, mask == 0])


def test_rge_queries_w_plus_and_then_minus_mu_along_each_direction_in_one_call() -> None:
    loss, w, mu, u = Recorder(), vector(), 1e-3, directions(3)
    before = w.clone()
    rge(loss, w, mu, u)
    [(queried, step)] = loss.calls
    assert queried.dtype == torch.float64
    assert torch.equal(queried, torch.stack([*(w + mu * row for row in u), *(w - mu * row for row in u)]))
    assert step == mu
    assert torch.equal(w, before)


@pytest.mark.parametrize("q", [1, 5])
def test_rge_costs_2q_queries(quadratic: MakeQuadratic, q: int) -> None:
    loss = quadratic(D)
    gradient, _ = rge(loss, vector(), 1e-3, directions(q))
    assert gradient.shape == (D,)
    assert loss.queries == 2 * q


def test_rge_with_the_axes_as_directions_is_cge_over_d(quadratic: MakeQuadratic) -> None:
    loss, w = quadratic(D), vector()
    torch.testing.assert_close(rge(loss, w, 1e-2, torch.eye(D, dtype=torch.float64))[0] * D, cge(loss, w, 1e-2)[0])
