"""The black box: its losses are cross-entropies of open_clip's features, counted, forward only, in the given precision."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.backbone import Backbone
from clip.prompt import Projection, context_embeddings, make_projection
from tests.conftest import make_tiny_backbone
from tests.helpers.black_box import INIT, PROMPTS, D, engines, make_images, make_objective, no_autograd_graph, points
from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.estimators import CGE
from trainers.blackbox.objective import FLOAT64_BELOW, Objective
from trainers.blackbox.samples import Samples, top1
from trainers.blackbox.text_prompt import TextPrompt
from trainers.sharpzo.stage1 import SharpnessAwareCMAES
from utils.errors import RunError


def reference_loss(backbone: Backbone, w: Tensor, dtype: torch.dtype) -> float:
    """One query by open_clip's encode_text, with replaced context embeddings, and torch's cross-entropy."""
    projection: Projection = make_projection(context_embeddings(backbone, INIT), D, 0.2, torch.Generator().manual_seed(0))
    context = projection.p0 + (projection.A @ w).reshape(projection.p0.shape)
    model = copy.deepcopy(backbone.model).to(dtype)

    def exchange(module: nn.Module, args: object, embeddings: Tensor) -> Tensor:
        return torch.cat([embeddings[:, :1], context.to(dtype).expand(len(embeddings), -1, -1), embeddings[:, 5:]], dim=1)

    model.token_embedding.register_forward_hook(exchange)
    images, scale = make_images(), float(backbone.model.logit_scale.exp())
    with torch.no_grad():
        text = model.encode_text(backbone.tokenizer(PROMPTS), normalize=True)
        return float(F.cross_entropy(scale * images.inputs.to(dtype) @ text.T, images.labels))


# values


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-6), ("float64", 1e-12)])
@engines
def test_losses_are_the_cross_entropies_of_open_clips_features(
    tiny_backbone: Backbone, engine: str, precision: str, tolerance: float
) -> None:
    W = points(4)
    losses = make_objective(tiny_backbone, precision, engine=engine)(W)
    expected = [reference_loss(tiny_backbone, w, getattr(torch, precision)) for w in W]
    assert losses.shape == (4,)
    assert losses.dtype == torch.float64
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)
    assert losses.std() > 1e-3


@pytest.mark.parametrize("memory_limit", [1, 50_000, 3_000_000])
@engines
def test_losses_do_not_depend_on_the_memory_limit(tiny_backbone: Backbone, engine: str, memory_limit: int) -> None:
    W = points(7)
    roomy, tight = (make_objective(tiny_backbone, memory_limit=limit, engine=engine) for limit in (1 << 30, memory_limit))
    torch.testing.assert_close(tight(W), roomy(W), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 64])
@engines
def test_losses_do_not_depend_on_how_the_batch_is_split(tiny_backbone: Backbone, engine: str, size: int) -> None:
    objective, W = make_objective(tiny_backbone, engine=engine), points(70)
    split = torch.cat([objective(rows) for rows in W.split(size)])
    torch.testing.assert_close(split, objective(W), rtol=0, atol=1e-6)


def test_text_features_of_few_queries_are_held_at_once_if_memory_is_short(tiny_backbone: Backbone) -> None:
    objective = make_objective(tiny_backbone, memory_limit=1)
    held, features = [], objective.model.text_features

    def spy(contexts: Tensor, dtype: torch.dtype) -> Tensor:
        held.append(len(contexts))
        return features(contexts, dtype)

    objective.model.text_features = spy
    objective(points(5))
    assert held == [1] * 5


def test_loss_at_is_the_loss_of_the_point(tiny_backbone: Backbone) -> None:
    objective, W = make_objective(tiny_backbone), points(2)
    assert objective.loss_at(W[1], objective.next_batch()) == pytest.approx(objective(W)[1].item(), abs=1e-6)


# counts


def test_every_row_is_a_query_and_evaluations_are_counted_apart(tiny_backbone: Backbone) -> None:
    objective, W = make_objective(tiny_backbone, memory_limit=1, engine="stock"), points(3)
    objective(W)
    objective(W[:2], mu=1e-5)
    assert (objective.queries, objective.evaluations) == (5, 0)
    objective.loss_at(W[0], objective.next_batch())
    objective.accuracy(W[0], make_images())
    assert (objective.queries, objective.evaluations) == (5, 2)
    objective.gradient(W[0])
    assert (objective.queries, objective.evaluations) == (6, 2)


# precision


@pytest.mark.parametrize(
    ("mu", "precision"),
    [(None, "float32"), (1e-3, "float32"), (FLOAT64_BELOW, "float32"), (9.9e-5, "float64"), (1e-6, "float64")],
)
def test_auto_precision_is_float64_only_for_steps_below_1e_4(tiny_backbone: Backbone, mu: float | None, precision: str) -> None:
    W = points(3)
    losses = make_objective(tiny_backbone)(W, mu=mu)
    same, other = (make_objective(tiny_backbone, p)(W) for p in (precision, {"float32", "float64"}.difference([precision]).pop()))
    assert FLOAT64_BELOW == 1e-4
    assert torch.equal(losses, same)
    assert not torch.equal(losses, other)


@pytest.mark.parametrize("mu", [None, 1e-6])
@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.1), ("float16", 0.01), ("float32", 1e-5)])
def test_a_given_precision_holds_for_every_step_and_is_close_to_float64(
    tiny_backbone: Backbone, precision: str, tolerance: float, mu: float | None
) -> None:
    W = points(4)
    objective = make_objective(tiny_backbone, precision)
    error = (objective(W, mu=mu) - make_objective(tiny_backbone, "float64")(W)).abs().max().item()
    assert 0 < error < tolerance
    assert torch.equal(objective(W, mu=mu), objective(W))


# failures


@pytest.mark.parametrize("scale", [1e25, 1e300, float("nan")])
def test_a_loss_that_is_not_finite_names_the_query(tiny_backbone: Backbone, scale: float) -> None:
    objective, W = make_objective(tiny_backbone), points(4)
    objective(W)
    W[2] *= scale
    with pytest.raises(RunError, match=r"at query 7\b") as error:
        objective(W)
    assert "\n" not in str(error.value)


def test_image_features_that_are_not_finite_name_the_first_query(tiny_backbone: Backbone) -> None:
    objective = make_objective(tiny_backbone)
    objective.next_batch().inputs[5, 3] = float("nan")
    with pytest.raises(RunError, match=r"at query 1\b"):
        objective(points(3))


# forward only


@pytest.mark.parametrize("precision", ["auto", "float64", "bfloat16"])
@engines
def test_no_autograd_graph_is_built_even_if_everything_requires_grad(engine: str, precision: str) -> None:
    backbone = make_tiny_backbone()
    objective = make_objective(backbone, precision, engine=engine)
    backbone.model.requires_grad_(True)
    objective.next_batch().inputs.requires_grad_(True)
    W = points(3).requires_grad_(True)
    with no_autograd_graph():
        losses = objective(W)
        objective(W, mu=1e-6)
        objective.loss_at(W[0], objective.next_batch())
        objective.accuracy(W[0], objective.next_batch())
    assert torch.is_grad_enabled()
    assert losses.grad_fn is None
    assert not losses.requires_grad
    assert not losses.is_inference()
    assert W.grad is None
    assert objective.next_batch().inputs.grad is None
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def test_the_guard_of_these_tests_detects_a_graph(tiny_backbone: Backbone) -> None:
    with no_autograd_graph(), pytest.raises(AssertionError, match="backward pass"):
        make_objective(tiny_backbone, engine="stock").gradient(points(1)[0])


@engines
def test_clip_is_left_as_it_was(engine: str) -> None:
    backbone = make_tiny_backbone()
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    objective = make_objective(backbone, engine=engine)
    W = points(3)
    kept = W.clone()
    objective.gradient(W[0])
    objective(W)
    objective(W, mu=1e-6)
    objective.loss_at(W[0], objective.next_batch())
    objective.accuracy(W[0], make_images())
    assert torch.equal(W, kept)
    for name, tensor in backbone.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for parameter in backbone.model.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad


# the gradient


@engines
def test_gradient_equals_central_differences(tiny_backbone: Backbone, engine: str) -> None:
    objective, w, step = make_objective(tiny_backbone, "float64", engine=engine), points(1)[0], 1e-5
    loss, gradient = objective.gradient(w)
    differences = []
    for i in range(D):
        above, below = w.clone(), w.clone()
        above[i] += step
        below[i] -= step
        differences.append(
            (reference_loss(tiny_backbone, above, w.dtype) - reference_loss(tiny_backbone, below, w.dtype)) / step / 2
        )
    expected = torch.tensor(differences, dtype=torch.float64)
    assert (gradient - expected).norm() <= 1e-6 * expected.norm()
    assert loss.item() == pytest.approx(reference_loss(tiny_backbone, w, w.dtype), abs=1e-12)
    assert not gradient.requires_grad
    assert loss.grad_fn is None


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
@engines
def test_gradient_is_the_same_after_forward_passes(tiny_backbone: Backbone, engine: str, precision: str) -> None:
    w = points(1)[0]
    first = make_objective(tiny_backbone, precision, engine=engine).gradient(w)
    objective = make_objective(tiny_backbone, precision, engine=engine)
    objective.loss_at(w, objective.next_batch())
    later = objective.gradient(w)
    assert torch.equal(first[0], later[0])
    assert torch.equal(first[1], later[1])


# accuracy

AXES = Samples(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]]), torch.tensor([0, 1, 1, 0]))


def accuracy(text: Tensor, images: Samples) -> float:
    return top1(lambda features: features @ text.T, images, images_per_pass=3)


def test_accuracy_is_the_share_of_images_nearest_to_the_text_of_their_label() -> None:
    text = torch.eye(2)
    assert accuracy(text, AXES) == 0.5
    assert accuracy(text.flip(0), AXES) == 0.5
    assert accuracy(text, Samples(AXES.inputs, torch.tensor([0, 0, 1, 1]))) == 1.0
    assert accuracy(text, Samples(AXES.inputs, torch.tensor([1, 1, 0, 1]))) == 0.25
    many = Samples(AXES.inputs.repeat(2000, 1), torch.tensor([0, 0, 1, 0]).repeat(2000))
    assert accuracy(text, many) == 0.75


def test_accuracy_is_that_of_the_point_and_the_images_it_is_given() -> None:
    def text_features(contexts: Tensor, dtype: torch.dtype) -> Tensor:
        return contexts.to(dtype)

    def contexts(W: Tensor) -> Tensor:
        return W.view(-1, 2, 2)

    objective = Objective(TextPrompt(contexts, text_features=text_features, logit_scale=1.0, classes=2, width=2), lambda: AXES)
    images = Samples(AXES.inputs[:3], torch.tensor([0, 0, 1]))
    assert objective.accuracy(torch.tensor([1.0, 0.0, 0.0, 1.0]), images) == 1.0
    assert objective.accuracy(torch.tensor([0.0, 1.0, 1.0, 0.0]), images) == 0.0


# losses that are only ranked


def test_population_precision_is_of_ranked_losses_alone(tiny_backbone: Backbone) -> None:
    W = points(6)
    objective, plain = make_objective(tiny_backbone), make_objective(tiny_backbone)
    objective.population_precision = "bfloat16"
    assert torch.equal(plain(W, mu=math.inf), plain(W))
    assert torch.equal(objective(W), plain(W))
    assert torch.equal(objective(W, mu=1e-6), plain(W, mu=1e-6))
    ranked = objective(W, mu=math.inf)
    assert not torch.equal(ranked, plain(W))
    # bfloat16 rounds the features; their products with the images stay in float32
    torch.testing.assert_close(ranked, plain(W), rtol=0, atol=0.05)


def test_stage_1_ranks_its_population_and_takes_exact_differences(tiny_backbone: Backbone) -> None:
    asked = []

    class Spy(Objective):
        def __call__(self, W: Tensor, mu: float | None = None) -> Tensor:
            asked.append((len(W), mu))
            return super().__call__(W, mu)

    plain = make_objective(tiny_backbone)
    inner = CMAES(points(1)[0], sigma=0.1, popsize=4, normal=lambda n, d: torch.zeros(n, d).numpy())
    stage = SharpnessAwareCMAES(inner, rho=0.1, estimator=CGE(mu=1e-3))
    stage.step(Spy(plain.model, plain.next_batch))
    assert asked == [(2 * D, 1e-3), (4, math.inf)]
