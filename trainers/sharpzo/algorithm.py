"""Algorithm 1: sharpness-aware CMA-ES up to the change point, then sparse zeroth-order SGD from where it got to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers import TRAINERS, registered
from trainers.blackbox.cmaes import CMAES, refuse_outside_box
from trainers.blackbox.gradients import Loss
from trainers.optimizer import Optimizer, gaussian
from trainers.sharpzo.stage1 import SharpnessAwareCMAES
from trainers.sharpzo.stage2 import SparseZO
from utils.seeds import numpy_generator, torch_generator
from utils.settings import Config, departures

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class ChangeAt:
    """Stage 2 starts at step `change_point`."""

    def __init__(self, change_point: int):
        self.change_point = change_point

    def reached(self, steps: int, w: Tensor) -> bool:
        return steps >= self.change_point


class ChangeAtPlateau:
    """Stage 2 starts when validation accuracy has not risen by more than `gain` over the best for `patience` steps in a row.

    `validate(w)` gives accuracy in [0, 1]. The best is the highest seen at any earlier step.
    """

    def __init__(self, validate: Callable[[Tensor], float], patience: int = 10, gain: float = 0.01):
        self.validate, self.patience, self.gain = validate, patience, gain
        self.best = 0.0
        self.stalled = 0

    def reached(self, steps: int, w: Tensor) -> bool:
        accuracy = self.validate(w)
        rises = steps == 0 or accuracy > self.best + self.gain
        self.stalled = 0 if rises else self.stalled + 1
        self.best = max(self.best, accuracy)
        return self.stalled >= self.patience


class SharpZO:
    """Two optimizers one after the other. `make_stage2` builds the second from the first at the change point."""

    def __init__(self, stage1: Optimizer, change: ChangeAt | ChangeAtPlateau, make_stage2: Callable[[Optimizer], Optimizer]):
        self.stage = 1
        self.current = stage1
        self.change = change
        self.make_stage2 = make_stage2
        self.steps = 0
        self._change_if_due()

    @property
    def solution(self) -> Tensor:
        return self.current.solution

    def num_queries(self, steps: int) -> int:
        if self.stage == 2 or isinstance(self.change, ChangeAtPlateau):
            return self.current.num_queries(steps)
        first = min(steps, self.change.change_point - self.steps)
        return self.current.num_queries(first) + (
            self.make_stage2(self.current).num_queries(steps - first) if steps > first else 0
        )

    def step(self, loss: Loss) -> dict[str, float]:
        record = self.current.step(loss)
        self.steps += 1
        self._change_if_due()
        return record

    def _change_if_due(self) -> None:
        if self.stage == 1 and self.change.reached(self.steps, self.solution):
            self.current = self.make_stage2(self.current)
            self.stage = 2


def build(config: Config, problem: Problem) -> Optimizer:
    """The trainers zo-pruned, zo and cma-es, as `config` describes them. The start is a matrix where `--stage2` moves one."""
    w0 = problem.initial
    stage1 = _build_stage1(config, w0.flatten())
    if config.prompt_trainer == "cma-es":
        return stage1
    change = ChangeAtPlateau(problem.validate) if config.change_point == "auto" else ChangeAt(config.change_point)
    if config.stage2 == "sparse-zo":
        return SharpZO(stage1, change, lambda stage: _build_stage2(config, stage))
    build_rule = registered(TRAINERS[config.stage2].build)

    def make_stage2(stage: Optimizer) -> Optimizer:
        return build_rule(config, dataclasses.replace(problem, initial=stage.solution.view(w0.shape)))

    return SharpZO(stage1, change, make_stage2)


def _build_stage1(config: Config, w0: Tensor) -> SharpnessAwareCMAES:
    chosen = departures(config)
    d = len(w0)
    refuse_outside_box(config, w0)
    first_mean = None
    if "zero-start" in chosen:
        w0 = torch.zeros_like(w0)
    if "fresh-mean-gradient" in chosen or "fresh-mean-start" in chosen:
        # the released code's first point is the mean of a matrix of U(0, 1) numbers, wherever CMA-ES itself starts
        uniform = torch.rand(config.popsize, d, generator=torch_generator(config.seed, "released first w"), dtype=torch.float64)
        first_mean = uniform.mean(0)
    generator = numpy_generator(config.seed, "CMA-ES")
    cmaes = CMAES(w0, config.sigma, config.popsize, config.bound, lambda n, size: generator.standard_normal((n, size)))
    return SharpnessAwareCMAES(
        cmaes,
        config.rho,
        config.smoothness_estimator,
        config.zo_eps_cge,
        chosen,
        first_mean,
        config.smoothness_every,
        config.sharpness_queries,
        gaussian(config, "RGE directions of stage 1"),
    )


def _build_stage2(config: Config, stage1: SharpnessAwareCMAES) -> SparseZO:
    generator = torch_generator(config.seed, "RGE directions")
    return SparseZO(
        stage1.solution,
        config.zo_lr,
        config.zo_eps_rge,
        lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64),
        q=config.num_pertub,
        pruning=config.pruning,
        ratio=config.prune_ratio,
        interval=config.prune_interval,
        mask_mu=config.zo_eps_mask,
        departures=departures(config),
        buffer=stage1.gradient,
        rows=config.popsize,
    )
