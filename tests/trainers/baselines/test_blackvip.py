"""BlackVIP's black box: prompted images, batch norm's two kinds of statistics, mini-batches, costs, and what is saved."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clip.backbone import Backbone
from tests.conftest import CLASSNAMES, make_tiny_backbone
from tests.helpers.black_box import no_autograd_graph
from tests.helpers.images import images_of, make_task
from tests.helpers.towers import ReferenceDecoder
from trainers.baselines.blackvip import problem as blackvip
from trainers.baselines.blackvip.encoder import Encoder
from trainers.baselines.blackvip.problem import EncodedBatch
from trainers.blackbox.problem import Problem
from trainers.loop import build_optimizer
from utils.settings import Config

CONFIG = Config(
    dataset="digits",
    prompt_trainer="blackvip",
    pt_backbone="clip",
    template="a photo of a {}.",
    memory_limit=64,
    train_batch=4,
    total_steps=50,
    p_eps=0.5,
    moms=0.9,
)


def make_problem(backbone: Backbone, **options) -> Problem:
    return blackvip.problem(dataclasses.replace(CONFIG, **options), make_task(backbone))


def points(problem: Problem, B: int) -> Tensor:
    noise = torch.randn(B, len(problem.initial), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return problem.initial + 0.1 * noise


def expected_scores(backbone: Backbone, network: ReferenceDecoder, images: Tensor, epsilon: float) -> Tensor:
    """Class scores (n, K) from open_clip and torch modules only, in float64."""
    low = torch.tensor([-1.79226, -1.75210, -1.48022])[:, None, None]
    high = torch.tensor([1.93034, 2.07488, 2.14590])[:, None, None]
    with torch.no_grad():
        prompt = network(backbone.model.encode_image(images).double())
        prompted = torch.minimum(torch.maximum(images + epsilon * prompt, low), high).float()
        images = backbone.model.encode_image(prompted, normalize=True)
        prompts = [f"a photo of a {name.replace('_', ' ')}." for name in CLASSNAMES]
        text = backbone.model.encode_text(backbone.tokenizer(prompts), normalize=True)
        return float(backbone.model.logit_scale.exp()) * (images @ text.T).double()


def network_at(problem: Problem, w: Tensor) -> ReferenceDecoder:
    decoder = problem.objective.model.decoder
    network = ReferenceDecoder(decoder, decoder.blocks, decoder.trigger, decoder.start).double()
    network.load_state_dict({name: p[0] for name, p in decoder.parameters(w[None]).items()}, strict=False)
    return network.requires_grad_(False)


def spy_on_batches(problem: Problem) -> list[EncodedBatch]:
    """The mini-batches that the objective will have loaded."""
    draw, given = problem.objective.next_batch, []
    load = draw.load
    draw.load = lambda which, number: given.append(load(which, number)) or given[-1]
    return given


def test_losses_are_those_of_the_formula_with_the_batchs_own_statistics(tiny_backbone: Backbone) -> None:
    problem = make_problem(tiny_backbone)
    given, W = spy_on_batches(problem), points(problem, 3)
    losses = problem.objective(W)
    batch = given[0]
    assert len(batch) == 4
    for loss, w in zip(losses, W, strict=True):
        logits = expected_scores(tiny_backbone, network_at(problem, w).train(), batch.inputs.images, 0.5)
        assert loss.item() == pytest.approx(F.cross_entropy(logits, batch.labels).item(), abs=1e-4)
    assert losses.std() > 1e-3


def test_evaluation_does_not_depend_on_the_other_images_or_on_what_ran_before(tiny_backbone: Backbone) -> None:
    problem = make_problem(tiny_backbone)
    model, w = problem.objective.model, points(problem, 1)
    whole, parts = ([part.inputs for part in problem.test.split(size)] for size in (5, 2))
    with torch.inference_mode():
        score = model.logits(w, torch.float32)
        together = score(whole[0])
        torch.testing.assert_close(torch.cat([score(part) for part in parts], 1), together, rtol=0, atol=1e-4)
        problem.objective(points(problem, 3))
        assert torch.equal(model.logits(w, torch.float32)(whole[0]), together)
        own = model.logits(w, torch.float32)(dataclasses.replace(whole[0], training=True))
    assert (own - together).abs().max() > 1e-3


def test_what_is_saved_suffices_to_score_images(tiny_backbone: Backbone) -> None:
    problem, task = make_problem(tiny_backbone), make_task(tiny_backbone)
    w = points(problem, 1)[0]
    saved = problem.objective.model.tensors(w)
    trigger = len(saved["trigger"])
    decoder = problem.objective.model.decoder
    network = ReferenceDecoder(decoder, decoder.blocks, trigger, decoder.start).double()
    names = {"norm.mean": "norm.running_mean", "norm.variance": "norm.running_var"}
    state = {name: tensor for name, tensor in saved.items() if name != "w"}
    for ours, torchs in names.items():
        state = {name.replace(ours, torchs): tensor for name, tensor in state.items()}
    unused = network.load_state_dict(state, strict=False)
    assert unused.unexpected_keys == []
    assert all("num_batches" in name for name in unused.missing_keys)
    images, labels = images_of(task, task.dataset.test)
    logits = expected_scores(tiny_backbone, network.requires_grad_(False).eval(), images, 0.5)
    assert problem.objective.loss_at(w, problem.test) == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-4)
    assert problem.objective.accuracy(w, problem.test) == (logits.argmax(1) == labels).double().mean().item()


def test_prompted_images_stay_within_the_valid_range(tiny_backbone: Backbone) -> None:
    problem = make_problem(tiny_backbone, p_eps=100.0)
    images = next(iter(problem.test.split(5))).inputs
    prompted = problem.objective.model.prompted(points(problem, 2), images, None)
    low, high = problem.objective.model.valid_range
    assert prompted.shape == (2, 5, 3, 32, 32)
    assert torch.equal(prompted.amin((0, 1, 3, 4)), low.flatten())
    assert torch.equal(prompted.amax((0, 1, 3, 4)), high.flatten())


# mini-batches


@pytest.mark.parametrize("train_features", ["fresh", "cached"])
def test_an_epoch_shows_each_image_once_and_leaves_the_incomplete_batch_out(tiny_backbone: Backbone, train_features: str) -> None:
    problem = make_problem(tiny_backbone, train_features=train_features)
    given, epochs = spy_on_batches(problem), []
    for _ in range(3):
        # 10 images are 2 batches of 4
        for _ in range(2):
            problem.objective(problem.initial[None])
        epochs.append(torch.cat([batch.inputs.images for batch in given[-2:]]))
        assert len(epochs[-1].flatten(1).unique(dim=0)) == 8
    assert problem.steps_per_epoch == 2
    assert not torch.equal(epochs[0], epochs[1])


def test_fresh_images_are_new_views_and_cached_ones_are_not(tiny_backbone: Backbone) -> None:
    seen = {}
    for train_features in ("fresh", "cached"):
        problem = make_problem(tiny_backbone, train_features=train_features, train_batch=10)
        given = spy_on_batches(problem)
        for _ in range(2):
            problem.objective(problem.initial[None])
        images = torch.cat([batch.inputs.images for batch in given]).flatten(1)
        seen[train_features] = len(images.unique(dim=0))
    assert seen == {"fresh": 20, "cached": 10}


def test_the_same_seed_draws_the_same_images_and_another_seed_others(tiny_backbone: Backbone) -> None:
    def losses(seed: int) -> Tensor:
        problem = make_problem(tiny_backbone, seed=seed)
        w = make_problem(tiny_backbone, seed=1).initial
        return torch.cat([problem.objective(w[None]) for _ in range(4)])

    assert torch.equal(losses(1), losses(1))
    assert not torch.equal(losses(1), losses(2))


def test_z_is_computed_once_a_batch(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    def spy(name: str, backbone: Backbone, seed: int) -> Encoder:
        visual = backbone.model.visual
        return Encoder(24, lambda images: encoded.append(len(images)) or backbone.model.encode_image(images), visual)

    monkeypatch.setattr(blackvip, "load_encoder", spy)
    problem = make_problem(tiny_backbone)
    optimizer = build_optimizer(CONFIG, problem)
    encoded.clear()
    optimizer.step(problem.objective)
    assert encoded == [4]
    for _ in range(2):
        problem.objective.accuracy(problem.initial, problem.test)
    assert encoded == [4, 5]


# costs


def test_a_step_costs_ten_queries_ten_forwards_and_the_images_of_each(tiny_backbone: Backbone) -> None:
    problem = make_problem(tiny_backbone)
    optimizer = build_optimizer(CONFIG, problem)
    for _ in range(3):
        optimizer.step(problem.objective)
    assert problem.objective.costs() == {"queries": 30, "forwards": 30, "tower_images": 30 * 4}


@pytest.mark.parametrize(("epochs", "total_steps", "steps"), [(3, 100, 6), (3, 5, 5), (0, 7, 7)])
def test_epochs_become_steps(tiny_backbone: Backbone, epochs: int, total_steps: int, steps: int) -> None:
    assert make_problem(tiny_backbone, epochs=epochs, total_steps=total_steps).steps == steps


@pytest.mark.parametrize("memory_limit", [1, 4096])
def test_losses_do_not_depend_on_the_memory_limit(tiny_backbone: Backbone, memory_limit: int) -> None:
    roomy, tight = (make_problem(tiny_backbone, memory_limit=limit) for limit in (64, memory_limit))
    W = points(roomy, 5)
    torch.testing.assert_close(tight.objective(W), roomy.objective(W), rtol=0, atol=1e-4)


def test_no_autograd_graph_is_built_even_if_everything_requires_grad() -> None:
    backbone = make_tiny_backbone()
    problem = make_problem(backbone)
    backbone.model.requires_grad_(True)
    W = points(problem, 2).requires_grad_(True)
    with no_autograd_graph():
        losses = problem.objective(W)
        problem.objective.loss_at(W[0], problem.train)
        problem.objective.accuracy(W[0], problem.test)
    assert not losses.requires_grad
    assert W.grad is None


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-4), ("bfloat16", 0.2)])
def test_other_precisions_are_close_to_float32(tiny_backbone: Backbone, precision: str, tolerance: float) -> None:
    single, other = (make_problem(tiny_backbone, precision=name) for name in ("float32", precision))
    W = points(single, 2)
    assert 0 < (single.objective(W) - other.objective(W)).abs().max() < tolerance
