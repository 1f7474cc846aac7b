"""CoOp: its SGD against torch's, its schedule, its budgets, and the positions of the class name."""

from __future__ import annotations

import math

import pytest
import torch

from clip.backbone import Backbone
from clip.prompt import context_embeddings
from clip.text import TextFeatures
from datasets import DATASETS
from tests.conftest import CLASSNAMES, Quadratic
from tests.helpers.images import make_task
from trainers import TRAINERS
from trainers.baselines.coop import CosineSGD, problem
from trainers.baselines.gradient_descent import descend_by_backpropagation
from utils.config import load_config
from utils.settings import Config


def test_updates_are_those_of_torch_with_momentum_and_decay() -> None:
    w = torch.linspace(-1, 2, 5, dtype=torch.float64)
    update = CosineSGD(lr=0.1, momentum=0.9, weight_decay=0.05, epochs=10, steps_per_epoch=2, warmup=1)
    ours = descend_by_backpropagation(w, update)
    theirs = torch.nn.Parameter(w.clone())
    torch_sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.05)
    for _ in range(12):
        torch_sgd.param_groups[0]["lr"] = update.rate()
        theirs.grad = Quadratic(5).gradient(theirs.detach())[1]
        torch_sgd.step()
        ours.step(Quadratic(5))
    torch.testing.assert_close(ours.solution, theirs.detach(), rtol=1e-12, atol=1e-12)


def test_step_size_warms_up_for_an_epoch_and_then_follows_a_cosine_of_its_own() -> None:
    update = CosineSGD(lr=0.002, momentum=0.9, weight_decay=0.0, epochs=50, steps_per_epoch=3, warmup=1)
    optimizer = descend_by_backpropagation(torch.zeros(1, dtype=torch.float64), update)
    rates = []
    for _ in range(150):
        rates.append(update.rate())
        assert optimizer.step(Quadratic(1))["lr"] == rates[-1]
    assert rates[:3] == [1e-5] * 3
    assert rates[3:6] == [0.002] * 3
    assert rates[75] == pytest.approx(0.001 * (1 + math.cos(math.pi * 24 / 50)))
    assert rates[-1] == pytest.approx(0.001 * (1 + math.cos(math.pi * 48 / 50)))


@pytest.mark.parametrize(("shots", "epochs"), [(1, 50), (2, 100), (4, 100), (8, 200), (16, 200)])
def test_published_epochs_follow_the_shots(shots: int, epochs: int) -> None:
    arguments = ["--config", "configs/dtd.yaml", "--prompt_trainer", "coop", "--shots", str(shots)]
    config = load_config(arguments, TRAINERS, DATASETS)
    assert (config.epochs, config.n_ctx, config.ctx_init, config.train_batch, config.lr) == (epochs, 16, "", 32, 0.002)


def test_imagenet_takes_50_epochs_for_every_number_of_shots() -> None:
    for shots in (1, 16):
        arguments = ["--config", "configs/imagenet.yaml", "--prompt_trainer", "coop", "--shots", str(shots)]
        assert load_config(arguments, TRAINERS, DATASETS).epochs == 50


@pytest.mark.parametrize("position", ["middle", "front"])
@pytest.mark.parametrize("words", ["a photo of a", "one two three"])
def test_name_among_the_context_gives_open_clips_features_of_that_prompt(
    tiny_backbone: Backbone, position: str, words: str
) -> None:
    text = TextFeatures(tiny_backbone, CLASSNAMES, words, 1 << 30, position=position)
    features = text(context_embeddings(tiny_backbone, words)[None], torch.float64)[0]
    parts = words.split()
    before = len(parts) // 2 if position == "middle" else 0
    prompts = [" ".join([*parts[:before], name.replace("_", " "), *parts[before:]]) + "." for name in CLASSNAMES]
    model = tiny_backbone.model.double()
    try:
        expected = model.encode_text(tiny_backbone.tokenizer(prompts), normalize=True)
    finally:
        model.float()
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-9)


def test_name_among_the_context_says_that_the_engine_does_not_serve_it(tiny_backbone: Backbone) -> None:
    text = TextFeatures(tiny_backbone, CLASSNAMES, "a photo of a", 1 << 30, position="middle")
    assert text.engine is None
    assert any("--engine stock" in warning for warning in text.warnings)
    assert not TextFeatures(tiny_backbone, CLASSNAMES, "a photo of a", 1 << 30, "stock", "middle").warnings


@pytest.mark.parametrize("words", ["", "a photo of a"])
def test_contexts_of_classes_start_different_without_initial_words(words: str, tiny_backbone: Backbone) -> None:
    config = Config(dataset="digits", prompt_trainer="coop", ctx_init=words, n_ctx=16, csc=True, memory_limit=64)
    start = problem(config, make_task(tiny_backbone)).initial.view(len(CLASSNAMES), -1)
    if words:
        assert torch.equal(start, context_embeddings(tiny_backbone, words).flatten().expand_as(start))
        return
    # 16 tokens of width 32, N(0, 0.02²), independent of each other
    assert start.shape == (4, 16 * 32)
    assert float(start.std()) == pytest.approx(0.02, rel=0.05)
    assert float((torch.corrcoef(start) - torch.eye(4)).abs().max()) < 0.15


def test_context_of_a_class_moves_that_class_alone(tiny_backbone: Backbone) -> None:
    text = TextFeatures(tiny_backbone, CLASSNAMES, "a photo", 1 << 30, position="front")
    contexts = torch.randn(1, len(CLASSNAMES), 2, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = text(contexts, torch.float64)[0]
    contexts[0, 2, 0, :5] += 1.0
    after = text(contexts, torch.float64)[0]
    changed = (before - after).abs().amax(-1) > 1e-6
    assert changed.tolist() == [False, False, True, False]
