"""From the settings of a run to Algorithm 1, its first stage alone, or one with the released code's departures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers import TRAINERS, registered
from trainers.blackbox.cmaes import configured_cmaes
from trainers.blackbox.estimators import CGE, RGE, Backpropagation, ForwardMode, GradientEstimator
from trainers.blackbox.masks import Dense, MagnitudePruning, MaskRule
from trainers.optimizer import Movable, Optimizer, gaussian
from trainers.sharpzo.algorithm import ChangeAt, ChangeAtPlateau, SharpZO
from trainers.sharpzo.released import ReleasedCMAES, ReleasedSharpZO, ReleasedSparseZO, ReleasedZPruning
from trainers.sharpzo.stage1 import SharpnessAwareCMAES
from trainers.sharpzo.stage2 import SparseZO, ZPruning
from utils.seeds import torch_generator
from utils.setting_kinds import departures
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


def build(config: Config, problem: Problem) -> Optimizer:
    """The trainers sharpzo, zo and cma-es, as `config` describes them. The start is a matrix where `--stage2` moves one."""
    w0 = problem.initial
    stage1 = build_stage1(config, w0.flatten())
    if config.prompt_trainer == "cma-es":
        return stage1
    stage2: Movable
    if config.stage2 == "sparse-zo":
        stage2 = build_stage2(config, w0.flatten())
    else:
        stage2 = registered(TRAINERS[config.stage2].build)(config, problem)
    point = config.change_point
    change = ChangeAt(point) if isinstance(point, int) else ChangeAtPlateau(problem.validate)
    return (ReleasedSharpZO if departures(config) else SharpZO)(stage1, stage2, change=change)


SMOOTHNESS: dict[str, Callable[[Config], GradientEstimator | None]] = {
    "zo": lambda config: CGE(mu=config.zo_eps_cge),
    "zo-forward": lambda config: CGE(mu=config.zo_eps_cge, one_sided=True),
    "rge": lambda config: RGE(
        mu=config.zo_eps_cge, normal=gaussian(config, "RGE directions of stage 1"), q=config.sharpness_queries
    ),
    "jvp": lambda config: ForwardMode(),
    "fo": lambda config: Backpropagation(),
    "none": lambda config: None,
}


MASK: dict[str, Callable[[Config], GradientEstimator]] = {
    "cge": lambda config: CGE(mu=config.zo_eps_mask),
    "jvp": lambda config: ForwardMode(),
}


def build_stage1(config: Config, w0: Tensor) -> SharpnessAwareCMAES:
    """Stage 1 from w0 (d,), by `--smoothness_estimator`."""
    chosen, rho, every = departures(config), config.rho, config.smoothness_every
    estimator = SMOOTHNESS[config.smoothness_estimator](config)
    if not chosen:
        return SharpnessAwareCMAES(configured_cmaes(config, w0), rho=rho, estimator=estimator, every=every)
    cmaes = configured_cmaes(config, w0, start=torch.zeros_like(w0) if "zero-start" in chosen else w0)
    first_mean = None
    if "fresh-mean-gradient" in chosen or "fresh-mean-start" in chosen:
        # the released code's first point is the mean of a matrix of U(0, 1) numbers, wherever CMA-ES itself starts
        generator = torch_generator(config.seed, "released first w")
        first_mean = torch.rand(config.popsize, len(w0), generator=generator, dtype=torch.float64).mean(0)
    return ReleasedCMAES(cmaes, rho=rho, estimator=estimator, every=every, departures=chosen, first_mean=first_mean)


def build_stage2(config: Config, w0: Tensor) -> SparseZO:
    """The paper's stage 2, to be started from the solution of stage 1."""
    chosen, draw = departures(config), gaussian(config)

    def normal(*shape: int) -> Tensor:
        """One draw for each direction: a single draw of (q, d) numbers differs from it unless d is a multiple of 16."""
        return torch.stack([draw(*shape[1:]) for _ in range(shape[0])]) if len(shape) == 2 else draw(*shape)

    of_mask, ratio = MASK[config.mask_estimator](config), config.prune_ratio
    rules: dict[str, Callable[[], MaskRule]] = {
        "zscore": lambda: ReleasedZPruning(of_mask, ratio=ratio, departures=chosen) if chosen else ZPruning(of_mask, ratio=ratio),
        "magnitude": lambda: MagnitudePruning(ratio=ratio),
        "none": Dense,
    }
    pruning, interval, lr = rules[config.pruning](), config.prune_interval, config.zo_lr
    rge = RGE(mu=config.zo_eps_rge, normal=normal, q=config.num_pertub)
    if not chosen:
        return SparseZO(w0, lr=lr, estimator=rge, pruning=pruning, interval=interval)
    return ReleasedSparseZO(w0, lr=lr, estimator=rge, pruning=pruning, interval=interval, departures=chosen, rows=config.popsize)
