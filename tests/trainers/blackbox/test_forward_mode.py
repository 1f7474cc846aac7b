"""Forward mode: the slopes are autograd's, w goes through once, and no graph is built."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from clip.backbone import Backbone
from main_sharpzo import main
from tests.helpers.black_box import D, engines, make_objective, no_autograd_graph, points
from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.estimators import Backpropagation, ForwardMode
from trainers.blackbox.objective import criterion
from trainers.sharpzo.stage1 import SharpnessAwareCMAES
from utils.errors import RunError
from utils.settings import Config

EYE = torch.eye(D, dtype=torch.float64)


def relative_error(backbone: Backbone, precision: str, engine: str, objective_name: str = "cross-entropy") -> float:
    objective = make_objective(backbone, precision, engine=engine)
    objective.criterion = criterion(Config(objective=objective_name))
    w = points(1)[0]
    loss, slopes = objective.jvp(w, EYE)
    value, gradient = objective.gradient(w)
    assert loss.item() == pytest.approx(value.item(), abs=1e-5)
    return float((slopes - gradient).norm() / gradient.norm())


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@engines
def test_slopes_along_all_coordinates_are_the_gradient(
    tiny_backbone: Backbone, engine: str, precision: str, tolerance: float
) -> None:
    assert relative_error(tiny_backbone, precision, engine) < tolerance


def test_so_are_those_of_the_focal_loss(tiny_backbone: Backbone) -> None:
    assert relative_error(tiny_backbone, "float64", "fast", "focal") < 1e-12


def test_a_slope_along_any_direction_is_the_product_with_the_gradient(tiny_backbone: Backbone) -> None:
    objective, w = make_objective(tiny_backbone, "float64"), points(1)[0]
    directions = torch.randn(3, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    slopes = objective.jvp(w, directions)[1]
    torch.testing.assert_close(slopes, directions @ objective.gradient(w)[1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("memory_limit", [1, 300_000])
@engines
def test_slopes_do_not_depend_on_how_many_directions_share_a_pass(
    tiny_backbone: Backbone, engine: str, memory_limit: int
) -> None:
    w = points(1)[0]
    roomy, tight = (make_objective(tiny_backbone, "float64", limit, engine) for limit in (1 << 30, memory_limit))
    assert tight.model.tangents_per_pass(torch.float64) < min(D, roomy.model.tangents_per_pass(torch.float64))
    torch.testing.assert_close(tight.jvp(w, EYE)[1], roomy.jvp(w, EYE)[1], rtol=1e-11, atol=1e-13)


@engines
def test_losses_and_slopes_are_the_same_after_the_other(tiny_backbone: Backbone, engine: str) -> None:
    w, W = points(1)[0], points(3)
    first = make_objective(tiny_backbone, "float64", engine=engine)
    slopes, losses = first.jvp(w, EYE)[1], first(W)
    other = make_objective(tiny_backbone, "float64", engine=engine)
    assert torch.equal(other(W), losses)
    assert torch.equal(other.jvp(w, EYE)[1], slopes)
    assert torch.equal(other.jvp(w, EYE)[1], slopes)


def test_a_tangent_is_a_query(tiny_backbone: Backbone) -> None:
    objective = make_objective(tiny_backbone)
    objective.jvp(points(1)[0], EYE[:3])
    objective.jvp(points(1)[0], EYE)
    assert objective.queries == 3 + D


def test_no_graph_is_built_and_no_warning_shown(tiny_backbone: Backbone) -> None:
    objective = make_objective(tiny_backbone)
    with no_autograd_graph(), warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, slopes = objective.jvp(points(1)[0], EYE)
    assert loss.grad_fn is None
    assert slopes.grad_fn is None
    assert not slopes.is_inference()


def test_a_loss_that_is_not_finite_ends_the_run(tiny_backbone: Backbone) -> None:
    with pytest.raises(RunError, match="loss nan"):
        make_objective(tiny_backbone).jvp(points(1)[0] * float("nan"), EYE)


def test_worst_case_shift_in_forward_mode_is_that_of_backpropagation(tiny_backbone: Backbone) -> None:
    shifts = []
    for estimator in (ForwardMode(), Backpropagation()):
        inner = CMAES(points(1)[0], sigma=0.1, popsize=4, normal=lambda n, d: torch.zeros(n, d).numpy())
        stage = SharpnessAwareCMAES(inner, rho=0.3, estimator=estimator)
        shifts.append(stage.worst_case(make_objective(tiny_backbone, "float64")))
    torch.testing.assert_close(shifts[0], shifts[1], rtol=1e-10, atol=1e-12)
    assert float(shifts[0].norm()) == pytest.approx(0.3)


def test_forward_gradient_and_forward_mode_sharpness_run_on_the_embedded_default(tmp_path: Path) -> None:
    common = ["--shots", "1", "--intrinsic_dim", "6", "--eval_every", "0", "--output_dir", str(tmp_path)]
    assert main([*common, "--prompt_trainer", "forward-gradient", "--total_steps", "2"]) == 0
    stages = ["--total_steps", "2", "--change_point", "1", "--popsize", "4", "--stage2", "forward-gradient"]
    assert main([*common, *stages, "--smoothness_estimator", "jvp"]) == 0
