"""scipy's L-BFGS on any gradient estimator: a classical optimizer at the same number of queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from trainers.blackbox.estimators import CGE, ForwardMode, GradientEstimator
from trainers.blackbox.gradients import LossFunction
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class _Query(Exception):
    """Raised when scipy requests the loss and the gradient at a point that has not been evaluated yet."""

    def __init__(self, point: np.ndarray):
        self.point = point


class LBFGS:
    """scipy's L-BFGS-B without bounds; each step evaluates L and ∇L once, at the point that the line search chooses.

    A step costs 1 query plus those of the estimator, also when it belongs to a line search; only the budget ends the search.
    scipy cannot pause, so each step replays scipy's iterations on the recorded evaluations, which costs no queries. If scipy
    gives up (its line search fails at the precision of the gradients), it restarts from the best point.

    >>> import torch
    >>> scale = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    >>> optimizer = LBFGS(torch.ones(3, dtype=torch.float64), estimator=CGE(mu=1e-4))
    >>> for _ in range(20):
    ...     figures = optimizer.step(lambda W, mu=None: (scale * W.square()).sum(1))
    >>> optimizer.num_queries(1), figures["best_loss"] < 1e-8
    (7, True)
    """

    stage = 1

    def __init__(self, w0: Tensor, *, estimator: GradientEstimator, memory: int = 10):
        self.estimator, self.memory = estimator, memory
        self.start_from(w0)

    def start_from(self, w: Tensor) -> None:
        self.solution = w.clone()
        self.best_loss = float("inf")
        self.start = w.clone()
        self.evaluations: list[tuple[float, np.ndarray]] = []

    def num_queries(self, steps: int) -> int:
        return steps + self.estimator.num_queries(len(self.solution), steps)

    def step(self, objective: LossFunction) -> dict[str, float]:
        """One evaluation. Returns loss (at the point that scipy chose), best_loss and grad_norm."""
        point = torch.from_numpy(self._next_point().copy())
        loss = float(objective(point[None])[0])
        gradient = self.estimator(objective, point).gradient
        self.evaluations.append((loss, gradient.numpy().copy()))
        if loss < self.best_loss:
            self.best_loss, self.solution = loss, point
        return {"loss": loss, "best_loss": self.best_loss, "grad_norm": float(gradient.norm())}

    def _next_point(self) -> np.ndarray:
        """The point of scipy's next evaluation, given those so far, or the best point if scipy has ended."""
        recorded = iter(self.evaluations)

        def evaluate(x: Any) -> tuple[float, np.ndarray]:
            known = next(recorded, None)
            if known is None:
                raise _Query(x)
            return known

        try:
            minimize(
                evaluate,
                self.start.numpy(),
                jac=True,
                method="L-BFGS-B",
                options={"maxcor": self.memory, "ftol": 0.0, "gtol": 0.0, "maxls": 20, "maxiter": 10**9, "maxfun": 10**9},
            )
        except _Query as query:
            return query.point
        self.start, self.evaluations = self.solution.clone(), []
        return self.start.numpy()


def build(config: Config, problem: Problem) -> LBFGS:
    estimator = ForwardMode() if config.lbfgs_gradient == "jvp" else CGE(mu=config.zo_eps_cge)
    return LBFGS(problem.initial, estimator=estimator, memory=config.lbfgs_memory)
