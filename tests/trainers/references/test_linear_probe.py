"""The linear probe: scikit-learn's own decisions, also for two classes, and the choice of C on the validation images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from clip.backbone import Backbone
from tests.helpers.images import make_task
from trainers.blackbox.samples import Samples
from trainers.references import linear_probe
from trainers.references.linear_probe import STRENGTHS, LinearClassifier, fit
from utils.settings import Config

CONFIG = Config(dataset="digits", prompt_trainer="linear-probe")


def samples(n: int, classes: int, seed: int, width: int = 24) -> Samples:
    """Noisy copies of one center per class."""
    labels = torch.arange(n) % classes
    centers = torch.randn(classes, width, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return Samples(torch.nn.functional.normalize(centers[labels] + 2 * noise, dim=1), labels)


@pytest.mark.parametrize("classes", [2, 5])
def test_decisions_are_those_of_scikit_learn(classes: int) -> None:
    train, test = samples(30, classes, 1), samples(200, classes, 2)
    logits = LinearClassifier(classes, 24).logits(fit(train, 10.0), test.inputs)
    regression = LogisticRegression(C=10.0, max_iter=10_000).fit(train.inputs.double().numpy(), train.labels.numpy())
    expected = regression.predict_proba(test.inputs.double().numpy())
    np.testing.assert_allclose(logits.softmax(1).numpy(), expected, atol=1e-9)


def test_the_best_strength_by_validation_is_chosen_without_queries(tiny_backbone: Backbone) -> None:
    task = make_task(tiny_backbone)
    classes, width = len(task.dataset.classnames), task.test_samples.inputs.shape[1]
    sets = [samples(n, classes, seed, width) for n, seed in ((40, 1), (200, 2), (200, 3))]
    task = dataclasses.replace(task, train_samples=sets[0], val_samples=sets[1], test_samples=sets[2])
    problem = linear_probe.problem(CONFIG, task)
    optimizer, objective = linear_probe.build(CONFIG, problem), problem.objective
    for _ in range(problem.steps):
        optimizer.step(objective)
    points = [fit(sets[0], strength) for strength in STRENGTHS]
    accuracies = [objective.accuracy(w, sets[1]) for w in points]
    assert len(set(accuracies)) > 1
    assert torch.equal(optimizer.solution, points[accuracies.index(max(accuracies))])
    assert objective.costs() == {"queries": 0, "forwards": 0, "tower_images": 40}
