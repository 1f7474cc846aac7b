"""SharpZO+: SharpZO's two stages with gradients that cost no queries of their own, and schedules that follow the budget.

    stage 1   sep-CMA-ES for a share of the budget; ε* from the losses of the population before, for no query
    stage 2   Adam with a cosine schedule on one-sided estimates; masks from the estimates themselves, for no query

Ours, not the paper's: docs/optimizers-measured.md has what each part brings. `sharpzo` is the paper's method.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.blackbox.cmaes import CMAES, configured_cmaes
from trainers.blackbox.estimators import Estimate, GradientEstimator
from trainers.blackbox.gradients import LossFunction
from trainers.blackbox.masks import prune_mask
from trainers.optimizer import Descent, gaussian
from trainers.sharpzo.algorithm import ChangeAt, SharpZO
from trainers.updates import Cosine
from trainers.zeroth_order.descent import update
from trainers.zeroth_order.population import SphereDifferences
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class PopulationShiftedCMAES:
    """CMA-ES that receives L(x_i + ε*), with ε* = ρ ĝ/‖ĝ‖ from the population before: ĝ = Σ_i (L_i − mean L)(x_i − θ).

    Up to σ²C this ĝ is the gradient of the loss smoothed by the population itself. S queries per generation, none of them for
    ĝ. ε* = 0 in the first generation, and where all losses are equal.

    >>> generator = torch.Generator().manual_seed(1)
    >>> normal = lambda n, d: torch.randn(n, d, generator=generator, dtype=torch.float64).numpy()
    >>> inner = CMAES(torch.zeros(3, dtype=torch.float64), sigma=0.3, popsize=8, normal=normal)
    >>> optimizer = PopulationShiftedCMAES(inner, rho=0.01)
    >>> bowl = lambda W, mu=None: (W - 1).square().sum(1)
    >>> for _ in range(40):
    ...     figures = optimizer.step(bowl)
    >>> optimizer.num_queries(1), bool((optimizer.solution - 1).norm() < 0.05)
    (8, True)
    """

    stage = 1

    def __init__(self, inner: CMAES, *, rho: float):
        self.inner, self.rho = inner, rho
        self.epsilon = torch.zeros_like(inner.mean)

    @property
    def solution(self) -> Tensor:
        return self.inner.mean

    def num_queries(self, steps: int) -> int:
        return steps * self.inner.popsize

    def step(self, objective: LossFunction) -> dict[str, float]:
        """One generation. Returns loss (mean of the candidates), best_loss (among them) and sigma."""
        candidates, mean = self.inner.ask(), self.inner.mean
        # ranks and the direction of ĝ are all that is taken from these losses
        losses = objective(candidates + self.epsilon, mu=math.inf)
        gradient = (losses - losses.mean()) @ (candidates - mean)
        norm = gradient.norm()
        self.epsilon = self.rho * gradient / norm if norm > 0 else torch.zeros_like(gradient)
        self.inner.tell(candidates, losses)
        return {"loss": float(losses.mean()), "best_loss": float(losses.min()), "sigma": self.inner.sigma}


class SelfMasked:
    """`estimator` on all coordinates, then on those of the largest |Σ ĝ|, in turns of `interval` calls; the mask costs no query.

    The first half of a turn sums its estimates. The second half drops the ⌊ratio·d⌋ coordinates of the smallest absolute sum.
    Logs `kept`, the share of coordinates.
    """

    def __init__(self, estimator: GradientEstimator, *, ratio: float, interval: int):
        self.estimator, self.ratio, self.interval = estimator, ratio, interval
        self.calls = 0
        self.mask: Tensor | None = None

    def num_queries(self, d: int, calls: int = 1) -> int:
        return self.estimator.num_queries(d, calls)

    def __call__(self, objective: LossFunction, w: Tensor, mask: Tensor | None = None) -> Estimate:
        turn = self.calls % self.interval
        if turn == 0:
            self.mask, self.total = None, torch.zeros_like(w)
        elif turn == (self.interval + 1) // 2 and self.ratio:
            self.mask = prune_mask(self.total.abs(), self.ratio)
        self.calls += 1
        own = torch.ones_like(w) if self.mask is None else self.mask
        estimate = self.estimator(objective, w, own if mask is None else own * mask)
        self.total += estimate.gradient
        return estimate._replace(figures={**estimate.figures, "kept": float(own.mean())})


def plan(config: Config) -> tuple[int, int]:
    """Generations of stage 1 and steps of stage 2, by the limit of `--max_queries` and `--total_steps` that ends first."""
    generations = round(config.warmup_share * config.max_queries / config.popsize)
    steps = (config.max_queries - generations * config.popsize) // (config.probes + 1)
    if not config.max_queries or generations + steps > config.total_steps:
        generations = round(config.warmup_share * config.total_steps)
        steps = config.total_steps - generations
    return generations, max(0, steps)


def build(config: Config, problem: Problem) -> SharpZO:
    """Both stages from the run's settings; without a warm-up, stage 2 from the first w."""
    w0 = problem.initial
    generations, steps = plan(config)
    stage1 = PopulationShiftedCMAES(configured_cmaes(config, w0, stream="SharpZO+", diagonal=True), rho=config.rho)
    estimator = SphereDifferences(mu=config.zo_eps_rge, probes=config.probes, normal=gaussian(config))
    masked = SelfMasked(estimator, ratio=config.prune_ratio, interval=config.prune_interval)
    adam = update(config, "adam")
    stage2 = Descent(w0, estimator=masked, update=Cosine(adam, steps=max(1, steps)) if config.zo_schedule == "cosine" else adam)
    return SharpZO(stage1, stage2, change=ChangeAt(generations))
