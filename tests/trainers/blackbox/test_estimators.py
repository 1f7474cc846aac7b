"""Gradient estimators and updates: what each costs, what a mask does to it, and that any two of them combine."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.conftest import Quadratic
from trainers.baselines.gradient_descent import descend_by_backpropagation
from trainers.blackbox.estimators import CGE, RGE, Backpropagation, ForwardGradient, ForwardMode, GradientEstimator
from trainers.blackbox.masks import Dense, MagnitudePruning, Masked
from trainers.optimizer import Descent
from trainers.sharpzo.stage2 import ZPruning
from trainers.updates import SGD, Adam, Momentum, Sign
from trainers.zeroth_order.spsa import SPSAEstimate, segmented_uniform

D = 6
NAMES = ("rge", "sign-of-slope", "cge", "forward", "share", "jvp", "forward-gradient", "exact", "spsa")


def make(name: str) -> GradientEstimator:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "rge": lambda: RGE(mu=1e-3, normal=normal, q=3),
        "sign-of-slope": lambda: RGE(mu=1e-3, normal=normal, sign_of_slope=True),
        "cge": lambda: CGE(mu=1e-3),
        "forward": lambda: CGE(mu=1e-5, one_sided=True),
        "share": lambda: CGE(mu=1e-3, share=0.5, generator=generator),
        "jvp": ForwardMode,
        "forward-gradient": lambda: ForwardGradient(normal=normal, q=3),
        "exact": Backpropagation,
        "spsa": lambda: SPSAEstimate(perturb=lambda q: segmented_uniform((q, D), generator), q=2, c=0.01, gamma=0.1, clip=False),
    }[name]()


def start() -> Tensor:
    return torch.linspace(2, 3, D, dtype=torch.float64)


MASK = torch.tensor([1, 0, 0, 1, 1, 0], dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_cost_is_what_a_call_queries(name: str) -> None:
    for mask, d in ((None, D), (MASK, 3)):
        loss, estimator = Quadratic(D), make(name)
        announced = estimator.num_queries(d)
        estimator(loss, start(), mask)
        assert loss.queries == announced
        assert estimator.num_queries(d, 5) == 5 * announced


def test_costs_are_those_of_the_literature() -> None:
    costs = {name: make(name).num_queries(512) for name in NAMES}
    assert costs["cge"] == 1024
    assert costs["forward"] == 513
    assert costs["share"] == 512
    assert costs["rge"] == 6
    assert costs["jvp"] == 512
    assert costs["forward-gradient"] == 3
    assert costs["exact"] == 1


@pytest.mark.parametrize("name", NAMES)
def test_masked_coordinates_are_not_perturbed_and_have_no_gradient(name: str) -> None:
    loss = Quadratic(D)
    gradient = make(name)(loss, start(), MASK).gradient
    assert torch.equal(gradient != 0, MASK.bool()) or (name == "share" and not gradient[MASK == 0].any())
    if name != "exact":
        points = torch.cat(loss.batches)
        assert torch.equal(points[:, MASK == 0], start()[MASK == 0].expand(len(points), -1))


@pytest.mark.parametrize("name", ["cge", "forward", "jvp", "exact"])
@pytest.mark.parametrize("mask", [None, MASK])
def test_complete_estimates_are_the_gradient_on_the_kept_coordinates(name: str, mask: Tensor | None) -> None:
    expected = Quadratic(D).gradient(start())[1] * (1 if mask is None else mask)
    torch.testing.assert_close(make(name)(Quadratic(D), start(), mask).gradient, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", ["rge", "forward-gradient", "share", "spsa"])
def test_random_estimates_average_to_the_gradient(name: str) -> None:
    estimator, loss = make(name), Quadratic(D)
    mean = torch.stack([estimator(loss, start()).gradient for _ in range(4000)]).mean(0)
    scale = 0.5 if name == "share" else 1.0
    expected = scale * loss.gradient(start())[1]
    assert float((mean - expected).norm() / expected.norm()) < 0.06


@pytest.mark.parametrize("update", [SGD, Sign, Momentum, Adam])
@pytest.mark.parametrize("name", NAMES)
def test_every_estimator_descends_with_every_update(name: str, update: type) -> None:
    optimizer, loss = Descent(start(), estimator=make(name), update=update(lr=0.05)), Quadratic(D)
    first = float(loss(start()[None]))
    planned = optimizer.num_queries(80)
    before = loss.queries
    for _ in range(80):
        assert {"loss", "grad_norm"} <= optimizer.step(loss).keys()
    assert loss.queries - before == planned
    assert float(Quadratic(D)(optimizer.solution[None])) < first / 2


def test_state_is_updated_in_place_so_that_a_checkpoint_can_restore_it() -> None:
    optimizer = descend_by_backpropagation(start(), Adam(lr=0.1))
    tensors = dict(optimizer.tensors)
    assert tensors.keys() == {"w", "m", "v"} == optimizer.estimator.trained.keys()
    seen = []
    loss = Quadratic(D)
    gradient = loss.gradient
    loss.gradient = lambda w, trained=None: (seen.append(trained), gradient(w))[1]
    for _ in range(3):
        optimizer.step(loss)
    for name, tensor in optimizer.tensors.items():
        assert tensor is tensors[name]
        assert all(trained[name] is tensor for trained in seen)
    assert not torch.equal(optimizer.solution, start())


def test_solution_and_the_first_point_are_not_changed_by_later_steps() -> None:
    w0 = start()
    optimizer = Descent(w0, estimator=make("cge"), update=SGD(lr=0.1))
    first = optimizer.solution
    optimizer.step(Quadratic(D))
    assert torch.equal(w0, start())
    assert torch.equal(first, start())


@pytest.mark.parametrize("name", ["rge", "cge", "jvp"])
def test_a_mask_is_refreshed_every_interval_and_paid_for_then(name: str) -> None:
    loss = Quadratic(D)
    masked = Masked(make(name), rule=ZPruning(CGE(mu=1e-5), ratio=0.5), interval=3)
    per_call = make(name).num_queries(3)
    assert masked.num_queries(D, 7) == 7 * per_call + 3 * 2 * D
    masks = []
    for call in range(7):
        announced, before = masked.num_queries(D), loss.queries
        estimate = masked(loss, start() + call)
        assert loss.queries - before == announced == per_call + (2 * D if call % 3 == 0 else 0)
        assert estimate.figures["kept"] == 0.5
        masks.append(masked.mask)
    assert masks[0] is masks[1] is masks[2]
    assert masks[3] is not masks[2]


def test_rules_retain_the_documented_coordinates() -> None:
    w, loss = torch.tensor([3.0, -0.1, 2.0, 0.5], dtype=torch.float64), Quadratic(4)
    assert Dense()(loss, w).tolist() == [1, 1, 1, 1]
    assert MagnitudePruning(ratio=0.5)(loss, w).tolist() == [1, 0, 1, 0]
    assert MagnitudePruning(ratio=0.5, keep_small=True)(loss, w).tolist() == [0, 1, 0, 1]
    assert loss.queries == 0


def test_a_share_of_the_coordinates_requires_a_generator() -> None:
    with pytest.raises(ValueError, match="generator"):
        CGE(mu=1e-3, share=0.5)
