"""BBT: plain CMA-ES, the three deployed points, and CraFT's published budgets."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from datasets import DATASETS
from tests.conftest import Quadratic
from trainers import TRAINERS
from trainers.blackbox.cmaes import naive_cmaes
from utils.config import load_config
from utils.settings import Config

SMALL = Config(dataset="digits", popsize=6, sigma=0.3, bound=0.0)


def test_candidates_get_their_own_losses() -> None:
    optimizer, loss = naive_cmaes(dataclasses.replace(SMALL, deploy="mean"), 4), Quadratic(4)
    told = []
    tell = optimizer.inner.tell
    optimizer.inner.tell = lambda candidates, losses: (told.append((candidates, losses)), tell(candidates, losses))
    optimizer.step(loss)
    candidates, losses = told[0]
    assert torch.equal(candidates, loss.batches[0])
    assert torch.equal(losses, Quadratic(4)(candidates))
    assert len(candidates) == optimizer.num_queries(1) == 6


def test_search_starts_at_zero_whatever_the_seed() -> None:
    for seed in (1, 2):
        assert not naive_cmaes(dataclasses.replace(SMALL, seed=seed, deploy="best"), 4).solution.any()


def test_mean_is_the_search_mean() -> None:
    optimizer = naive_cmaes(dataclasses.replace(SMALL, deploy="mean"), 4)
    for _ in range(3):
        optimizer.step(Quadratic(4))
        assert torch.equal(optimizer.solution, optimizer.inner.mean)


def test_best_is_the_candidate_of_the_lowest_loss_of_the_run() -> None:
    optimizer, loss = naive_cmaes(dataclasses.replace(SMALL, deploy="best", sigma=2.0), 4), Quadratic(4)
    for _ in range(5):
        figures = optimizer.step(loss)
        seen = torch.cat(loss.batches)
        losses = Quadratic(4)(seen)
        assert torch.equal(optimizer.solution, seen[losses.argmin()])
        assert figures["best_loss"] == float(losses.min())


def test_fresh_mean_is_the_mean_of_another_population() -> None:
    optimizer, loss = naive_cmaes(dataclasses.replace(SMALL, deploy="fresh-mean"), 4), Quadratic(4)
    drawn = []
    ask = optimizer.inner.ask
    optimizer.inner.ask = lambda: drawn.append(ask()) or drawn[-1]
    optimizer.step(loss)
    assert len(drawn) == 2
    assert torch.equal(loss.batches[0], drawn[0])
    assert torch.equal(optimizer.solution, drawn[1].mean(0))


@pytest.mark.parametrize(("shots", "queries"), [(1, 2000), (2, 4000), (4, 4000), (7, 4000), (8, 8000), (16, 8000), (32, 8000)])
def test_published_budget_follows_the_shots(shots: int, queries: int) -> None:
    arguments = ["--config", "configs/dtd.yaml", "--prompt_trainer", "bbt", "--shots", str(shots)]
    assert load_config(arguments, TRAINERS, DATASETS).max_queries == queries
    assert load_config([*arguments, "--max_queries", "77"], TRAINERS, DATASETS).max_queries == 77


@pytest.mark.parametrize(("dataset", "sigma", "std"), [("dtd", 0.02, 1.0), ("caltech101", 1.0, 0.2), ("imagenet", 1.0, 0.0255)])
def test_datasets_have_crafts_settings(dataset: str, sigma: float, std: float) -> None:
    for trainer in ("bbt", "craft"):
        config = load_config(["--config", f"configs/{dataset}.yaml", "--prompt_trainer", trainer], TRAINERS, DATASETS)
        assert (config.sigma, config.std) == (sigma, std)
        assert config.deploy == ("best" if dataset == "imagenet" else "fresh-mean")
