"""BBT: naive CMA-ES on the projected prompt (Sun et al. 2022), by the protocol of CraFT's ablation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.gradients import Loss
from utils.seeds import numpy_generator
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class NaiveCMAES:
    """One CMA-ES generation a step, S queries.

    `deploy`: the point that is used. "mean": the search mean. "fresh-mean": the mean of another population, drawn after each
    update (the search mean before the first). "best": the candidate of the lowest loss seen (the mean before the first).
    """

    stage = 1

    def __init__(self, inner: CMAES, deploy: str):
        self.inner, self.deploy = inner, deploy
        self.best_loss = float("inf")
        self.estimate: Tensor = inner.mean

    def plan(self, steps: int) -> int:
        return steps * self.inner.popsize

    def step(self, loss: Loss) -> dict[str, float]:
        """One generation. Returns loss (mean of the candidates), best_loss (of the run so far) and sigma."""
        candidates = self.inner.ask()
        losses = loss(candidates)
        self.inner.tell(candidates, losses)
        lowest = int(losses.argmin())
        improved = float(losses[lowest]) < self.best_loss
        self.best_loss = min(self.best_loss, float(losses[lowest]))
        if self.deploy == "mean":
            self.estimate = self.inner.mean
        elif self.deploy == "fresh-mean":
            self.estimate = self.inner.ask().mean(0)
        elif improved:
            self.estimate = candidates[lowest]
        return {"loss": float(losses.mean()), "best_loss": self.best_loss, "sigma": self.inner.sigma}


def naive_cmaes(config: Config, d: int) -> NaiveCMAES:
    """CMA-ES from 0 (d,) with the settings' σ, S, bound and deployed point."""
    generator = numpy_generator(config.seed, "CMA-ES")
    zeros = torch.zeros(d, dtype=torch.float64)
    inner = CMAES(zeros, config.sigma, config.popsize, config.bound, lambda n, size: generator.standard_normal((n, size)))
    return NaiveCMAES(inner, config.deploy)


def build(config: Config, problem: Problem) -> NaiveCMAES:
    return naive_cmaes(config, len(problem.initial))
