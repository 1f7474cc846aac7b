"""Beyond the paper: other estimators in stage 1, other optimizers as stage 2, other objectives, the context as search space."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets import DATASETS
from main_sharpzo import main
from tests.trainers.sharpzo.test_algorithm import PAPER
from tests.trainers.test_every_trainer import CountingQuadratic, run, toy_problem
from trainers import TRAINERS, registered
from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.criteria import criterion
from trainers.blackbox.gradients import cge, cge_one_sided, rge
from trainers.loop import build_optimizer
from trainers.optimizer import gaussian
from trainers.sharpzo.build import SMOOTHNESS
from trainers.sharpzo.stage1 import SharpnessAwareCMAES
from utils.config import load_config
from utils.errors import UserError
from utils.settings import Config

ZO_OPTIMIZERS = [name for name, info in TRAINERS.items() if info.stage2]
D = 6


def small(**options) -> Config:
    tiny = {"popsize": 4, "total_steps": 12, "change_point": 4, "prune_interval": 3, "zo_eps_mask": 1e-4}
    config = dataclasses.replace(PAPER, **tiny | options)
    return dataclasses.replace(config, prompt_space="full") if "lozo" in (config.stage2, config.prompt_trainer) else config


def stage_one(estimator: str, **options) -> SharpnessAwareCMAES:
    generator = torch.Generator().manual_seed(0)
    inner = CMAES(
        torch.zeros(D, dtype=torch.float64),
        sigma=0.3,
        popsize=4,
        normal=lambda n, d: torch.randn(n, d, generator=generator).double().numpy(),
    )
    config = Config(zo_eps_cge=1e-3, sharpness_queries=5, seed=3)
    return SharpnessAwareCMAES(inner, rho=0.1, estimator=SMOOTHNESS[estimator](config), **options)


# the gradient for the worst-case shift


def test_shift_follows_the_gradient_that_the_option_names(quadratic) -> None:
    loss, at = quadratic(D), torch.zeros(D, dtype=torch.float64)
    gradients = {
        "zo": cge(loss, at, 1e-3)[0],
        "zo-forward": cge_one_sided(loss, at, 1e-3)[0],
        "rge": rge(loss, at, 1e-3, gaussian(Config(seed=3), "RGE directions of stage 1")(5, D))[0],
        "jvp": loss.gradient(at)[1],
        "fo": loss.gradient(at)[1],
    }
    for estimator, gradient in gradients.items():
        shift = stage_one(estimator).worst_case(quadratic(D))
        torch.testing.assert_close(shift, 0.1 * gradient / gradient.norm(), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(gradients["zo"], gradients["zo-forward"], atol=1e-6)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(
    ("estimator", "cost"), [("zo", 2 * D), ("zo-forward", D + 1), ("rge", 10), ("jvp", D), ("fo", 1), ("none", 0)]
)
def test_num_queries_is_what_each_generation_costs(quadratic, estimator: str, cost: int, every: int) -> None:
    stage, loss = stage_one(estimator, every=every), CountingQuadratic(D)
    announced, costs = stage.num_queries(7), []
    for _ in range(7):
        next_step, before = stage.num_queries(1), loss.queries
        stage.step(loss)
        costs.append(loss.queries - before)
        assert costs[-1] == next_step
    assert costs == [4 + (cost if step % every == 0 else 0) for step in range(7)]
    assert announced == sum(costs)


def test_shift_stays_the_same_between_refreshes(quadratic) -> None:
    stage, loss, shifts = stage_one("fo", every=3), quadratic(D), []
    for _ in range(6):
        stage.step(loss)
        shifts.append(stage.epsilon)
    assert all(torch.equal(shifts[i], shifts[0]) for i in (1, 2))
    assert not torch.equal(shifts[3], shifts[0])
    assert torch.equal(shifts[5], shifts[3])


def test_options_reach_stage_one(quadratic) -> None:
    config = small(smoothness_estimator="rge", sharpness_queries=7, smoothness_every=2, total_steps=4)
    _, records = run(config, d=D)
    assert [record["queries"] for record in records] == [0, 18, 22, 40, 44]


# other optimizers as stage 2


@pytest.mark.parametrize("name", ZO_OPTIMIZERS)
class TestEveryZOOptimizerAsStageTwo:
    def test_starts_at_the_stage_one_mean(self, quadratic, name: str) -> None:
        config = small(stage2=name)
        optimizer = build_optimizer(config, toy_problem(config, d=D))
        stage1, loss = optimizer.current, quadratic(D)
        for _ in range(config.change_point):
            assert optimizer.stage == 1
            optimizer.step(loss)
        assert optimizer.stage == 2
        torch.testing.assert_close(optimizer.solution, stage1.solution, rtol=0, atol=1e-12)
        assert isinstance(
            optimizer.current, type(build_optimizer(dataclasses.replace(config, prompt_trainer=name), toy_problem(config, d=D)))
        )

    def test_whole_run_costs_what_was_announced(self, quadratic, name: str) -> None:
        config = small(stage2=name)
        announced = build_optimizer(config, toy_problem(config, d=D)).num_queries(12)
        _, records = run(config, d=D)
        assert records[-1]["queries"] == announced
        assert [record["stage"] for record in records[1:]] == [1] * 4 + [2] * 8


def test_mezo_after_stage_one_is_the_trainer_zo(quadratic) -> None:
    dense, _ = run(small(prompt_trainer="zo", pruning="none"), d=D)
    slot, _ = run(small(stage2="mezo"), d=D)
    assert torch.equal(dense, slot)


# objectives


def scores_and_labels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 20, 5, generator=generator, dtype=torch.float64), torch.randint(5, (20,), generator=generator)


def test_objectives_are_their_formulas() -> None:
    logits, labels = scores_and_labels()
    entropies = criterion(Config())(logits, labels)
    assert entropies.shape == (3, 20)
    torch.testing.assert_close(entropies[1], F.cross_entropy(logits[1], labels, reduction="none"))
    p = logits.softmax(2)[:, torch.arange(20), labels]
    torch.testing.assert_close(criterion(Config(objective="focal"))(logits, labels), -((1 - p) ** 2) * p.log())
    torch.testing.assert_close(criterion(Config(objective="focal", focal_gamma=0.0))(logits, labels), entropies)
    hits = logits.argmax(2) == labels
    errors = criterion(Config(objective="accuracy"))(logits, labels)
    assert torch.equal(errors.mean(1), 1 - hits.double().mean(1))


def test_focal_loss_of_a_certain_image_is_zero_and_finite() -> None:
    logits = torch.tensor([[[100.0, 0.0], [0.0, 1e4]]], dtype=torch.float64)
    assert criterion(Config(objective="focal"))(logits, torch.tensor([0, 0])).tolist() == [[pytest.approx(0.0), 1e4]]


def digits(tmp_path: Path, *argv: str) -> int:
    common = ["--shots", "1", "--intrinsic_dim", "6", "--total_steps", "2", "--eval_every", "0", "--output_dir", str(tmp_path)]
    return main([*common, *argv])


@pytest.mark.parametrize("objective", ["focal", "accuracy"])
def test_objective_is_what_a_run_minimizes(tmp_path: Path, objective: str) -> None:
    status = digits(tmp_path, "--prompt_trainer", "rank-sgd", "--objective", objective, "--zo_eps_rge", "0.5")
    assert status == 0
    lines = next(tmp_path.rglob("metrics.jsonl")).read_text().splitlines()
    loss = float(lines[-1].split('"train_loss": ')[1].split(",")[0])
    assert objective == "focal" or (loss * 10) == pytest.approx(round(loss * 10), abs=1e-9)
    assert math.isfinite(loss)


# the search space, and combinations that are refused


def test_full_space_is_the_context_itself(tmp_path: Path) -> None:
    from clip.prompt import load_prompt

    assert digits(tmp_path, "--prompt_trainer", "lozo") == 0
    tensors, _ = load_prompt(next(tmp_path.rglob("prompt.safetensors")))
    assert "A" not in tensors
    torch.testing.assert_close(tensors["context"], tensors["p0"] + tensors["w"].view_as(tensors["p0"]))
    assert tensors["w"].shape == (tensors["p0"].numel(),)


@pytest.mark.parametrize("argv", [("--prompt_trainer", "mezo"), ("--change_point", "1", "--popsize", "4", "--stage2", "lozo")])
def test_other_optimizers_and_both_stages_run_in_the_full_space(tmp_path: Path, argv: tuple[str, ...]) -> None:
    assert digits(tmp_path, *argv, "--prompt_space", "full", "--smoothness_estimator", "rge") == 0


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (
            "--stage2 mezzo",
            "--stage2: 'mezzo' is not a stage 2 optimizer (did you mean 'mezo'?); choose from sparse-zo",
        ),
        ("--stage2 zero-shot", "--stage2: 'zero-shot' is not a stage 2 optimizer"),
        ("--stage2 mezo --prompt_trainer cma-es", "--stage2: cma-es has one stage; --stage2 requires one of sharpzo, zo"),
        (
            "--stage2 mezo --fidelity gradient-buffer",
            "--fidelity: the released code's departures in stage 2 apply to sparse-zo, not to mezo",
        ),
        ("--stage2 lozo", "prompt_space: lozo moves the context matrix"),
        ("--prompt_trainer lozo --prompt_space projected", "--prompt_space: lozo moves the context matrix"),
        ("--objective accuracy --prompt_trainer fo", "--objective: accuracy has no derivative, which fo requires"),
        ("--objective accuracy --stage2 forward-gradient", "--objective: accuracy has no derivative, which forward-gradient"),
        ("--objective accuracy --smoothness_estimator jvp", "has no derivative, which --smoothness_estimator jvp requires"),
        ("--objective accuracy --smoothness_estimator fo --prompt_trainer cma-es", "--smoothness_estimator fo requires"),
        ("--objective hinge", "--objective: 'hinge' is not one of cross-entropy, focal, accuracy"),
        ("--zo_update adam", "has a fixed update; --zo_update requires one of sharpzo+, fo, mezo, sparse-mezo, cge"),
        ("--zo_update adam --prompt_trainer lozo", "--zo_update: lozo has a fixed update"),
        ("--zo_update adm --prompt_trainer cge", "--zo_update: 'adm' is not one of default, sgd, sign, momentum, adam"),
        ("--cge_share 0", "--cge_share: 0.0 is out of range"),
        ("--line_search 1", "--line_search: 1 is out of range"),
    ],
)
def test_invalid_combinations_are_refused_in_one_line(
    argv: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([*argv.split(), "--output_dir", str(tmp_path / "outputs")]) == 2
    printed = capsys.readouterr()
    assert reason in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


def test_a_vector_is_refused_by_lozo_itself() -> None:
    with pytest.raises(UserError, match="--prompt_space"):
        config = small(prompt_trainer="lozo")
        registered(TRAINERS["lozo"].build)(config, toy_problem(config, d=D))


def test_estimator_of_a_trainer_without_stage_one_has_no_effect() -> None:
    argv = ["--objective", "accuracy", "--smoothness_estimator", "jvp", "--prompt_trainer", "rank-sgd"]
    assert load_config(argv, TRAINERS, DATASETS).objective == "accuracy"
