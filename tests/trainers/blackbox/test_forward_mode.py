"""Forward mode: the slopes are autograd's, w goes through once, and no graph is built."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from clip.backbone import Backbone
from clip.precision import CPU_UNITS, tangent_precision
from datasets import DATASETS
from main_sharpzo import main
from tests.helpers.black_box import D, engines, make_objective, no_autograd_graph, points
from trainers import TRAINERS
from trainers.blackbox import objective as objective_module
from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.criteria import criterion, cross_entropies, focal_derivatives
from trainers.blackbox.estimators import Backpropagation, ForwardMode
from trainers.blackbox.objective import Objective
from trainers.sharpzo.stage1 import SharpnessAwareCMAES
from utils.config import load_config
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
    per_pass = [
        near.near.chunk
        if (near := objective.model.linearized(w, torch.float64, torch.float64))
        else objective.model.tangents_per_pass(torch.float64)
        for objective in (tight, roomy)
    ]
    assert per_pass[0] < min(D, per_pass[1])
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


# the tangent engine


@pytest.mark.parametrize("objective_name", ["cross-entropy", "focal"])
@pytest.mark.parametrize("memory_limit", [1, 1 << 30])
def test_the_tangent_engine_agrees_with_torchs_transforms(
    tiny_backbone: Backbone, objective_name: str, memory_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = make_objective(tiny_backbone, "float64", memory_limit)
    objective.criterion = criterion(Config(objective=objective_name))
    loss, slopes = objective.jvp(points(1)[0], EYE)
    monkeypatch.setattr(objective.model, "linearized", lambda *_: None)
    by_transform = objective.jvp(points(1)[0], EYE)
    torch.testing.assert_close(loss, by_transform[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(slopes, by_transform[1], rtol=1e-10, atol=1e-12)


def test_losses_in_closed_form_go_by_the_tangent_engine_and_others_by_transforms(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = []
    transform = objective_module.slopes_along
    monkeypatch.setattr(objective_module, "slopes_along", lambda *args: (ways.append("transform"), transform(*args))[1])
    objective = make_objective(tiny_backbone)
    objective.jvp(points(1)[0], EYE)
    assert ways == []
    objective.criterion = lambda logits, labels: 2 * cross_entropies(logits, labels)
    objective.jvp(points(1)[0], EYE)
    assert ways == ["transform"]


@pytest.mark.parametrize(("tangent_precision", "low", "high"), [("float32", 0.0, 1e-5), ("bfloat16", 1e-4, 0.1)])
def test_tangents_are_as_exact_as_their_precision(
    tiny_backbone: Backbone, tangent_precision: str, low: float, high: float
) -> None:
    objective, exact = make_objective(tiny_backbone), make_objective(tiny_backbone, "float64")
    objective.tangent_precision = exact.tangent_precision = tangent_precision
    w = points(1)[0]
    gradient = exact.gradient(w)[1]

    def error(of: Objective) -> float:
        return float((of.jvp(w, EYE)[1] - gradient).norm() / gradient.norm())

    assert low < error(objective) < high
    # --precision float64 gives all digits
    assert error(exact) < 1e-11


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_closed_form_is_the_derivative_of_the_loss(gamma: float) -> None:
    labels = torch.tensor([0, 2, 1, 1])
    logits = 3 * torch.randn(4, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    logits.requires_grad_(True)
    loss = criterion(Config(objective="focal", focal_gamma=gamma))
    loss(logits[None], labels).sum().backward()
    torch.testing.assert_close(focal_derivatives(logits.detach(), labels, loss), logits.grad, rtol=1e-10, atol=1e-14)
    entropy = criterion(Config())
    logits.grad = None
    entropy(logits[None], labels).sum().backward()
    torch.testing.assert_close(focal_derivatives(logits.detach(), labels, entropy), logits.grad, rtol=1e-10, atol=1e-14)


def test_the_closed_form_is_finite_for_a_certain_label_and_unknown_for_other_losses() -> None:
    certain = torch.tensor([[800.0, 0.0]], dtype=torch.float64)
    for gamma in (0.0, 0.5, 2.0):
        focal = criterion(Config(objective="focal", focal_gamma=gamma))
        assert focal_derivatives(certain, torch.tensor([0]), focal).tolist() == [[0.0, 0.0]]
    with pytest.raises(ValueError, match="closed form"):
        focal_derivatives(certain, torch.tensor([0]), criterion(Config(objective="accuracy")))


@pytest.mark.parametrize(
    ("flags", "smoothness", "mask"),
    [
        ([], "zo", "cge"),
        (["--derivatives", "forward"], "jvp", "jvp"),
        (["--derivatives", "forward", "--mask_estimator", "cge"], "jvp", "cge"),
        (["--derivatives", "forward", "--smoothness_estimator", "none"], "none", "jvp"),
        (["--mask_estimator", "jvp"], "zo", "jvp"),
    ],
)
def test_one_switch_sets_both_estimators_unless_they_are_given(flags: list[str], smoothness: str, mask: str) -> None:
    config = load_config(flags, TRAINERS, DATASETS)
    assert (config.smoothness_estimator, config.mask_estimator) == (smoothness, mask)


def test_a_mask_in_forward_mode_is_refused_for_a_loss_without_derivative(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--objective", "accuracy", "--mask_estimator", "jvp"]) == 2
    error = capsys.readouterr().err
    assert "--mask_estimator jvp" in error
    assert len(error.splitlines()) == 1


def test_a_run_by_derivatives_counts_a_query_per_tangent_and_records_their_precision(tmp_path: Path) -> None:
    steps = ["--total_steps", "5", "--change_point", "2", "--popsize", "4", "--prune_interval", "2"]
    common = ["--shots", "1", "--intrinsic_dim", "6", "--eval_every", "0", "--output_dir", str(tmp_path)]
    assert main([*common, *steps, "--derivatives", "forward", "--tangent_precision", "float32"]) == 0
    folder = next(tmp_path.rglob("result.json")).parent
    # two generations, three steps of two queries, and masks before the first and the third of them
    assert json.loads((folder / "result.json").read_text())["queries"] == 2 * (6 + 4) + 3 * 2 + 2 * 6
    assert "tangent_precision: float32" in (folder / "config.yaml").read_text()


@pytest.mark.parametrize(("flags", "expected"), [((), "float32"), (("_is_amx_tile_supported",), "bfloat16")])
def test_auto_precision_of_tangents_follows_the_cpus_flags(
    flags: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for unit in CPU_UNITS:
        monkeypatch.setattr(torch.cpu, unit, lambda unit=unit: unit in flags, raising=False)
    assert tangent_precision("auto", torch.device("cpu")) == expected
    assert tangent_precision("float32", torch.device("cpu")) == "float32"
    assert tangent_precision("bfloat16", torch.device("cpu")) == "bfloat16"


def test_tangents_that_the_context_loses_are_an_error_and_not_zero(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = make_objective(tiny_backbone)
    contexts = objective.model.contexts
    monkeypatch.setattr(objective.model, "contexts", lambda W: contexts(torch.tensor(W.tolist(), dtype=W.dtype)))
    with pytest.raises(RuntimeError, match="lost the tangents"):
        objective.jvp(points(1)[0], EYE)


def test_inference_mode_around_a_run_does_not_change_the_slopes(tiny_backbone: Backbone) -> None:
    w = points(1)[0]
    expected = make_objective(tiny_backbone, "float64").jvp(w, EYE)[1]
    with torch.inference_mode():
        slopes = make_objective(tiny_backbone, "float64").jvp(w, EYE)[1]
    assert torch.equal(slopes, expected)
    assert expected.norm() > 0
