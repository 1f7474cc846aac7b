"""Tip-Adapter: the published formula, zero-shot CLIP at zero, and the choice on the validation images without a query."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clip.backbone import Backbone
from tests.helpers.images import make_task
from trainers.blackbox.samples import Samples
from trainers.blackbox.task import FewShotTask
from trainers.references import tip_adapter
from trainers.references.tip_adapter import GRID, Cache
from utils.settings import Config

CONFIG = Config(dataset="digits", prompt_trainer="tip-adapter", template="a photo of a {}.")


def features(n: int, seed: int, width: int = 24) -> Tensor:
    return F.normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture
def task(tiny_backbone: Backbone) -> FewShotTask:
    """Ten training features, and noisy copies of them for validation and test."""
    task = make_task(tiny_backbone)
    width = task.test_samples.inputs.shape[1]
    labels = torch.tensor([item.label for item in task.train])
    train = features(10, 1, width)
    noisy = [Samples(F.normalize(train + 0.3 * features(10, seed, width), dim=1), labels) for seed in (2, 3)]
    return dataclasses.replace(task, train_samples=Samples(train, labels), val_samples=noisy[0], test_samples=noisy[1])


def test_logits_are_the_published_formula() -> None:
    cache = Cache(features(6, 1).double(), torch.tensor([0, 1, 2, 0, 1, 2]), features(3, 2).double(), 100.0)
    images, (alpha, beta) = features(4, 3).double(), (1.7, 5.5)
    logits = cache.logits(torch.tensor([alpha, beta], dtype=torch.float64), images)
    for i in range(4):
        for k in range(3):
            expected = 100.0 * float(images[i] @ cache.text[k])
            for key, label in zip(cache.keys, cache.labels.tolist(), strict=True):
                expected += alpha * math.exp(-beta * (1 - float(images[i] @ key))) * (label == k)
            assert float(logits[i, k]) == pytest.approx(expected, rel=1e-12)


def test_the_initial_point_is_zero_shot_clip(task: FewShotTask) -> None:
    problem = tip_adapter.problem(CONFIG, task)
    model = problem.objective.model
    logits = model.logits(problem.initial[None], torch.float32)(task.test_samples.inputs)[0]
    text = model.tensors(problem.initial)["text"]
    expected = task.backbone.logit_scale * task.test_samples.inputs @ text.T
    torch.testing.assert_close(logits.float(), expected)


def test_the_grids_best_point_by_validation_is_chosen_without_queries(task: FewShotTask) -> None:
    problem = tip_adapter.problem(CONFIG, task)
    optimizer, objective = tip_adapter.build(CONFIG, problem), problem.objective
    assert problem.steps == len(GRID)
    for _ in range(problem.steps):
        optimizer.step(objective)
    accuracies = [objective.accuracy(torch.tensor(point, dtype=torch.float64), task.val_samples) for point in GRID]
    assert max(accuracies) > objective.accuracy(problem.initial, task.val_samples)
    assert tuple(optimizer.solution.tolist()) == GRID[accuracies.index(max(accuracies))]
    assert objective.costs() == {"queries": 0, "forwards": 0, "tower_images": 10}
