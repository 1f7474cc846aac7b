"""Settings that concern every trainer: each trainer applies them, or refuses them before anything is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from clip.backbone import Backbone
from main_sharpzo import main
from tests.helpers.images import make_task
from trainers import TRAINERS, registered
from trainers.blackbox.problem import Problem
from trainers.blackbox.samples import Samples
from trainers.blackbox.task import FewShotTask
from trainers.loop import build_problem
from utils.settings import Config

OWN = {"intrinsic_dim": 16, "train_batch": 4, "pt_backbone": "clip", "memory_limit": 64, "template": "a photo of a {}."}
TRAINED = {name: info for name, info in TRAINERS.items() if info.build and info.prompt}
# one trainer per search space
ONE_PER_PROBLEM = {(info.problem, info.restore): name for name, info in TRAINED.items()}.values()


@pytest.fixture(scope="module")
def task(tiny_backbone: Backbone) -> FewShotTask:
    """Ten training images and, for prompts on the text side, as many features."""
    task, generator = make_task(tiny_backbone), torch.Generator().manual_seed(1)
    labels = torch.tensor([item.label for item in task.train])
    images = Samples(F.normalize(torch.randn(10, task.test_samples.inputs.shape[1], generator=generator), dim=1), labels)
    return dataclasses.replace(task, train_samples=images, val_samples=images, test_samples=images)


def problem_of(trainer: str, task: FewShotTask, **options: object) -> tuple[Config, Problem]:
    settings = {**TRAINERS[trainer].defaults, **OWN, **options}
    config = Config(dataset="digits", prompt_trainer=trainer, **settings)
    return config, build_problem(config, task)


@pytest.mark.parametrize("position", ["middle", "front"])
@pytest.mark.parametrize("trainer", ONE_PER_PROBLEM)
def test_class_name_has_its_position_from_training(trainer: str, position: str, task: FewShotTask) -> None:
    config, problem = problem_of(trainer, task, class_token_position=position)
    objective, w = problem.objective, problem.initial + 0.3
    scorer = registered(TRAINERS[trainer].restore)(config, task, objective.model.tensors(w))
    score = objective.model.logits(w[None], torch.float32)
    trained = torch.cat([objective.deployed(score(part.inputs))[0] for part in problem.test.split(10)])
    again = torch.cat([scorer.logits(part.inputs) for part in scorer.images.split(10)])
    torch.testing.assert_close(again, trained, rtol=0, atol=1e-4)
    if trainer != "blackvip":
        # these have the template's text
        _, at_the_end = problem_of(trainer, task)
        assert abs(objective.loss_at(w, problem.test) - at_the_end.objective.loss_at(w, problem.test)) > 1e-3


@pytest.mark.parametrize("objective", ["focal", "accuracy"])
@pytest.mark.parametrize("trainer", TRAINED)
def test_objective_changes_the_losses_or_is_refused(
    trainer: str, objective: str, task: FewShotTask, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if trainer == "craft" or (objective == "accuracy" and TRAINERS[trainer].derivative):
        argv = ["--prompt_trainer", trainer, "--objective", objective, "--output_dir", str(tmp_path / "outputs")]
        assert main(argv) == 2
        assert capsys.readouterr().err.startswith("error: --objective: ")
        assert not (tmp_path / "outputs").exists()
        return
    _, plain = problem_of(trainer, task)
    _, other = problem_of(trainer, task, objective=objective)
    W = plain.initial[None] + 0.3
    loss, changed = plain.objective(W).item(), other.objective(W).item()
    assert changed < loss - 1e-3
    if objective == "accuracy":
        # of all 10 images, or of a mini-batch of 4
        assert 20 * changed == pytest.approx(round(20 * changed))
