"""BPT-VLM: the published projections, scores of both prompted towers, costs, saved tensors, and one CMA-ES per layer."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.backbone import Backbone
from tests.conftest import CLASSNAMES, Quadratic, make_tiny_backbone
from tests.helpers.black_box import no_autograd_graph
from tests.helpers.images import images_of, make_task
from tests.helpers.towers import make_resnet, prompted_features
from trainers.baselines import bpt_vlm
from trainers.baselines.bpt_vlm import LayerByLayer
from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.problem import Problem
from trainers.loop import build_optimizer
from utils.errors import UserError
from utils.settings import Config

CONFIG = Config(
    dataset="digits",
    prompt_trainer="bpt-vlm",
    ctx_init="",
    n_ctx=8,
    intrinsic_dim=6,
    intrinsic_dim_v=5,
    popsize=6,
    sigma=1.0,
    bound=0.0,
    deploy="best",
    memory_limit=64,
    precision="float64",
)
VIT = {"layers": 3}
shallow_and_deep = pytest.mark.parametrize("deep", [False, True])


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return make_tiny_backbone(vision=VIT, layers=2)


def make_problem(backbone: Backbone, **options) -> Problem:
    return bpt_vlm.problem(dataclasses.replace(CONFIG, **options), make_task(backbone))


def points(problem: Problem, B: int) -> Tensor:
    return torch.randn(B, len(problem.initial), generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def expected_text(backbone: Backbone, contexts: Tensor) -> Tensor:
    """open_clip's encode_text in float64 with contexts (L, n_ctx, width) put into the inputs of its modules."""
    model = copy.deepcopy(backbone.model).double()
    own = slice(1, 1 + contexts.shape[1])

    def put(x: Tensor, layer: int) -> Tensor:
        x = x.clone()
        x[:, own] = contexts[layer]
        return x

    model.token_embedding.register_forward_hook(lambda module, args, out: put(out, 0))
    for layer in range(1, len(contexts)):

        def exchange(module: nn.Module, args: tuple[Tensor], layer: int = layer) -> tuple[Tensor]:
            return (put(args[0], layer),)

        model.transformer.resblocks[layer].register_forward_pre_hook(exchange)
    prompts = [f"{'x ' * 8}{name.replace('_', ' ')}." for name in CLASSNAMES]
    with torch.no_grad():
        return model.encode_text(backbone.tokenizer(prompts), normalize=True)


def expected_loss(backbone: Backbone, contexts: Tensor, tokens: Tensor, part: str) -> float:
    task = make_task(backbone)
    images, labels = images_of(task, getattr(task.dataset, part))
    images = prompted_features(backbone, images, tokens)
    logits = float(backbone.model.logit_scale.exp()) * images @ expected_text(backbone, contexts).T
    return F.cross_entropy(logits, labels).item()


@shallow_and_deep
def test_losses_are_those_of_both_stock_towers_with_the_tokens_put_in(backbone: Backbone, deep: bool) -> None:
    problem = make_problem(backbone, deep=deep)
    prompt, W = problem.objective.model.prompt, points(problem, 3)
    losses = problem.objective(W)
    # deep: at the input of each layer that both towers have
    layers = 2 if deep else 1
    assert prompt.d == len(problem.initial) == layers * 11
    for loss, w in zip(losses, W, strict=True):
        parts = w.view(layers, 11)
        contexts = torch.stack([(A @ v[:6]).view(8, 32) for A, v in zip(prompt.A_text, parts, strict=True)])
        tokens = torch.stack([(A @ v[6:]).view(5, 32) for A, v in zip(prompt.A_image, parts, strict=True)])
        assert loss.item() == pytest.approx(expected_loss(backbone, contexts, tokens, "train"), abs=1e-9)
    assert losses.std() > 1e-3


@shallow_and_deep
def test_what_is_saved_suffices_to_score_images(backbone: Backbone, deep: bool) -> None:
    problem = make_problem(backbone, deep=deep)
    w = points(problem, 1)[0]
    saved = problem.objective.model.tensors(w)
    loss = expected_loss(backbone, saved["context"], saved["visual_tokens"], "test")
    assert problem.objective.loss_at(w, problem.test) == pytest.approx(loss, abs=1e-9)
    if not deep:
        torch.testing.assert_close((saved["A_text"] @ w[:6]).view(1, 8, 32), saved["context"])
        torch.testing.assert_close((saved["A_image"] @ w[6:]).view(1, 5, 32), saved["visual_tokens"])


def test_projections_have_the_published_moments(backbone: Backbone) -> None:
    problem = make_problem(backbone, intrinsic_dim=500, intrinsic_dim_v=400, sigma=0.5)
    prompt, model = problem.objective.model.prompt, backbone.model
    assert prompt.A_text.shape == (1, 8 * 32, 500)
    assert prompt.A_image.shape == (1, 5 * 32, 400)
    embedding, patch = model.token_embedding.weight, model.visual.conv1.weight
    fan_in = 3 * 16 * 16
    assert prompt.A_text.std() == pytest.approx(float(embedding.std()) / (500**0.5 * 0.5), rel=0.02)
    assert abs(prompt.A_text.mean()) < 0.02 * prompt.A_text.std()
    assert prompt.A_image.std() == pytest.approx(float(patch.std()) * (fan_in / 400) ** 0.5 * 0.5, rel=0.02)
    tolerance = 4 * float(prompt.A_image.std()) / prompt.A_image.numel() ** 0.5
    assert prompt.A_image.mean() == pytest.approx(float(patch.mean()) * fan_in / 400, abs=tolerance)


def test_deep_projections_take_the_scale_of_what_leaves_their_layer(backbone: Backbone) -> None:
    problem = make_problem(backbone, deep=True, intrinsic_dim=500, intrinsic_dim_v=400)
    prompt, task, model = problem.objective.model.prompt, make_task(backbone), copy.deepcopy(backbone.model).double()
    left: list[Tensor] = []
    for tower in (model.transformer, model.visual.transformer):
        tower.resblocks[1].register_forward_hook(lambda module, args, out: left.append(out))
    zeros = torch.zeros(2, 8, 32).double()

    def empty(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (torch.cat([args[0][:, :1], zeros[:1].expand(len(args[0]), -1, -1), args[0][:, 9:]], 1),)

    model.token_embedding.register_forward_hook(lambda module, args, out: empty(module, (out,))[0])
    model.transformer.resblocks[1].register_forward_pre_hook(empty)

    def append(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (torch.cat([args[0][:, :5], torch.zeros(len(args[0]), 5, 32).double()], 1),)

    model.visual.ln_pre.register_forward_pre_hook(append)
    model.visual.transformer.resblocks[1].register_forward_pre_hook(append)
    with torch.no_grad():
        model.encode_text(backbone.tokenizer([f"{'x ' * 8}{name.replace('_', ' ')}." for name in CLASSNAMES]))
        model.encode_image(images_of(task, task.train)[0].double())
    for hidden, A, d in zip(left, (prompt.A_text[1], prompt.A_image[1]), (500, 400), strict=True):
        values = hidden.numpy()
        for _ in range(5):
            bounds = values.mean() - 3 * values.std(), values.mean() + 3 * values.std()
            values = np.clip(values, *bounds)
        assert A.std() == pytest.approx(values.std() / d**0.5, rel=0.02)


def test_std_scales_all_projections(backbone: Backbone) -> None:
    plain, wide = (make_problem(backbone, std=std, deep=True).objective.model.prompt for std in (1.0, 3.0))
    torch.testing.assert_close(wide.A_text, 3 * plain.A_text)
    torch.testing.assert_close(wide.A_image, 3 * plain.A_image)


def test_it_starts_from_no_words_and_given_ones_are_added(backbone: Backbone) -> None:
    contexts = [
        make_problem(backbone, ctx_init=words).objective.model.prompt.contexts(torch.zeros(1, 11)) for words in ("", "a dog")
    ]
    assert torch.equal(contexts[0], torch.zeros(1, 1, 8, 32, dtype=torch.float64))
    ids = backbone.tokenizer.encode("a dog")
    assert torch.equal(contexts[1][0, 0], backbone.model.token_embedding.weight[ids].double())


def test_a_generation_passes_every_training_image_once_a_candidate(backbone: Backbone) -> None:
    problem = make_problem(backbone, batch_size=4)
    optimizer = build_optimizer(CONFIG, problem)
    optimizer.step(problem.objective)
    optimizer.step(problem.objective)
    # 10 images are 3 batches of at most 4
    assert problem.objective.costs() == {"queries": 12, "forwards": 12 * 3, "tower_images": 12 * 10}


@shallow_and_deep
def test_the_point_of_the_lowest_training_loss_is_used(backbone: Backbone, deep: bool) -> None:
    problem = make_problem(backbone, deep=deep)
    optimizer = build_optimizer(dataclasses.replace(CONFIG, deep=deep), problem)
    best = min(optimizer.step(problem.objective)["best_loss"] for _ in range(5))
    assert problem.objective.loss_at(optimizer.solution, problem.train) == pytest.approx(best, abs=1e-9)
    assert best < problem.objective.loss_at(problem.initial, problem.train)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.2)])
@shallow_and_deep
def test_other_precisions_are_close_to_float64(backbone: Backbone, deep: bool, precision: str, tolerance: float) -> None:
    double, other = (make_problem(backbone, precision=name, deep=deep) for name in ("float64", precision))
    W = points(double, 2)
    assert 0 < (double.objective(W) - other.objective(W)).abs().max() < tolerance


@pytest.mark.parametrize("memory_limit", [1, 2])
@shallow_and_deep
def test_losses_do_not_depend_on_the_memory_limit(backbone: Backbone, memory_limit: int, deep: bool) -> None:
    roomy, tight = (make_problem(backbone, memory_limit=limit, deep=deep) for limit in (64, memory_limit))
    W = points(roomy, 7)
    torch.testing.assert_close(tight.objective(W), roomy.objective(W), rtol=0, atol=1e-9)


@shallow_and_deep
def test_no_autograd_graph_is_built_even_if_everything_requires_grad(deep: bool) -> None:
    backbone = make_tiny_backbone(vision=VIT)
    problem = make_problem(backbone, deep=deep)
    backbone.model.requires_grad_(True)
    with no_autograd_graph():
        W = points(problem, 2).requires_grad_(True)
        losses = problem.objective(W)
        problem.objective.accuracy(W[0], problem.test)
    assert not losses.requires_grad
    assert W.grad is None


def test_a_resnet_is_refused() -> None:
    with pytest.raises(UserError, match="--backbone"):
        make_problem(make_resnet())


@pytest.mark.parametrize("deploy", ["mean", "fresh-mean"])
def test_deep_prompts_are_used_at_the_best_point_only(backbone: Backbone, deploy: str) -> None:
    with pytest.raises(UserError, match="--deploy"):
        make_problem(backbone, deep=True, deploy=deploy)


# one CMA-ES per layer


def make_layers(layers: int, d: int) -> list[CMAES]:
    def normal(layer: int):
        generator = np.random.default_rng(layer)
        return lambda n, size: generator.standard_normal((n, size))

    return [CMAES(torch.zeros(d, dtype=torch.float64), sigma=1.0, popsize=6, normal=normal(layer)) for layer in range(layers)]


def test_layers_take_turns_and_the_others_hold_the_best_so_far() -> None:
    optimizer, loss = LayerByLayer(make_layers(3, 2)), Quadratic(6)
    best, best_loss = torch.zeros(6, dtype=torch.float64), float("inf")
    for step in range(9):
        assert torch.equal(optimizer.solution, best)
        record = optimizer.step(loss)
        asked = loss.batches[-1]
        own = slice(2 * (step % 3), 2 * (step % 3) + 2)
        others = [i for i in range(6) if not own.start <= i < own.stop]
        assert torch.equal(asked[:, others], best[others].expand(6, -1))
        assert len(asked[:, own].unique(dim=0)) == 6
        losses = Quadratic(6)(asked)
        if losses.min() < best_loss:
            best, best_loss = asked[losses.argmin()], float(losses.min())
        assert record["best_loss"] == best_loss
    assert optimizer.num_queries(5) == 30


def test_one_cma_es_per_layer_descends() -> None:
    optimizer, loss = LayerByLayer(make_layers(3, 2)), Quadratic(6)
    for _ in range(90):
        optimizer.step(loss)
    assert float(loss(optimizer.solution[None])) < 0.05 * float(loss(torch.zeros(1, 6, dtype=torch.float64)))
