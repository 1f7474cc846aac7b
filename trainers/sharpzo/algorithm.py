"""Algorithm 1: sharpness-aware CMA-ES until the change point, then sparse zeroth-order SGD from its mean."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from trainers.blackbox.gradients import LossFunction
from trainers.optimizer import Movable, Optimizer


class ChangeAt:
    """Stage 2 starts at step `change_point`."""

    def __init__(self, change_point: int):
        self.change_point: int | None = change_point

    def reached(self, steps: int, w: Tensor) -> bool:
        return self.change_point is not None and steps >= self.change_point


class ChangeAtPlateau:
    """Stage 2 starts when validation accuracy has not exceeded the best by more than `gain` for `patience` steps in a row.

    `validate(w)` gives accuracy in [0, 1]. The best is the highest of any earlier step.
    """

    change_point: int | None = None

    def __init__(self, validate: Callable[[Tensor], float], *, patience: int = 10, gain: float = 0.01):
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
    """Two optimizers in a row: `stage2` continues from the solution of `stage1` at the change point.

    >>> import torch
    >>> from trainers.blackbox.cmaes import CMAES
    >>> from trainers.blackbox.estimators import CGE, RGE
    >>> from trainers.sharpzo.stage1 import SharpnessAwareCMAES
    >>> from trainers.sharpzo.stage2 import SparseZO, ZPruning
    >>> generator, w0 = torch.Generator().manual_seed(1), torch.zeros(3, dtype=torch.float64)
    >>> normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    >>> cmaes = CMAES(w0, sigma=0.3, popsize=8, normal=lambda n, d: normal(n, d).numpy())
    >>> stage1 = SharpnessAwareCMAES(cmaes, rho=0.1, estimator=CGE(mu=1e-3))
    >>> pruning = ZPruning(CGE(mu=1e-5), ratio=0.5)
    >>> stage2 = SparseZO(w0, lr=0.01, estimator=RGE(mu=1e-3, normal=normal), pruning=pruning)
    >>> optimizer = SharpZO(stage1, stage2, change=ChangeAt(20))
    >>> bowl = lambda W, mu=None: (W - 1).square().sum(1)
    >>> for _ in range(60):
    ...     figures = optimizer.step(bowl)
    >>> optimizer.stage, bool((optimizer.solution - 1).norm() < 0.5)
    (2, True)
    """

    def __init__(self, stage1: Optimizer, stage2: Movable, *, change: ChangeAt | ChangeAtPlateau):
        self.stage1, self.stage2, self.change = stage1, stage2, change
        self.current: Optimizer = stage1
        self.stage = 1
        self.steps = 0
        if change.change_point == 0:
            self.start_stage2()

    @property
    def solution(self) -> Tensor:
        return self.current.solution

    def num_queries(self, steps: int) -> int:
        if self.stage == 2 or self.change.change_point is None:
            return self.current.num_queries(steps)
        first = min(steps, self.change.change_point - self.steps)
        return self.stage1.num_queries(first) + self.stage2.num_queries(steps - first)

    def step(self, objective: LossFunction) -> dict[str, float]:
        """One step of the current stage; validates w for an automatic change point, before the first step and after each."""
        if self.steps == 0:
            self._change_if_due()
        figures = self.current.step(objective)
        self.steps += 1
        self._change_if_due()
        return figures

    def _change_if_due(self) -> None:
        if self.stage == 1 and self.change.reached(self.steps, self.solution):
            self.start_stage2()

    def start_stage2(self) -> None:
        self.stage2.start_from(self.stage1.solution)
        self.current, self.stage = self.stage2, 2
