"""LOZO (Chen et al. 2024, Enhancing Zeroth-Order Fine-Tuning with Low-Rank Structures): low-rank perturbations of a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from trainers.blackbox.estimators import Normal
from trainers.blackbox.gradients import LossFunction, slopes_along_pairs
from trainers.optimizer import SinglePointOptimizer, gaussian
from utils.errors import UserError
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class LOZO(SinglePointOptimizer):
    """W ← W − η s U Vᵀ / r, s = [L(W + μ U Vᵀ) − L(W − μ U Vᵀ)] / (2μ), W (m, n), U (m, r), V (n, r) ~ N(0, 1); 2 queries.

    U is drawn in every step, V every ν = `interval` steps, so the steps in between share one column subspace.

    >>> import torch
    >>> generator = torch.Generator().manual_seed(1)
    >>> normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    >>> optimizer = LOZO(torch.ones(2, 3, dtype=torch.float64), lr=0.02, mu=1e-3, normal=normal)
    >>> bowl = lambda W, mu=None: W.square().sum(1)
    >>> for _ in range(200):
    ...     figures = optimizer.step(bowl)
    >>> optimizer.num_queries(1), optimizer.solution.shape, figures["loss"] < 1
    (2, torch.Size([6]), True)
    """

    def __init__(self, w0: Tensor, *, lr: float, mu: float, normal: Normal, rank: int = 2, interval: int = 50):
        """`w0` (m, n). The solution and the points that are queried are W row by row, (m·n,)."""
        super().__init__(w0.flatten(), queries=2)
        self.shape = w0.shape
        self.lr, self.mu, self.normal, self.rank, self.interval = lr, mu, normal, rank, interval
        self.steps = 0

    def step(self, objective: LossFunction) -> dict[str, float]:
        rows, columns = self.shape
        if self.steps % self.interval == 0:
            self.V = self.normal(columns, self.rank)
        self.steps += 1
        perturbation = (self.normal(rows, self.rank) @ self.V.T).flatten()
        slopes, mean_loss = slopes_along_pairs(objective, self.w, self.mu, perturbation[None])
        gradient = slopes[0] * perturbation / self.rank
        self.w = self.w - self.lr * gradient
        return {"loss": mean_loss, "grad_norm": float(gradient.norm())}


def build(config: Config, problem: Problem) -> LOZO:
    """From problem.initial (n_ctx, width). Raises UserError for a vector, which has no rows and columns."""
    if problem.initial.ndim != 2:
        raise UserError("--prompt_space: lozo perturbs a matrix, but a projected w is a vector; add --prompt_space full")
    return LOZO(
        problem.initial,
        lr=config.zo_lr,
        mu=config.zo_eps_rge,
        normal=gaussian(config),
        rank=config.lozo_rank,
        interval=config.lozo_interval,
    )
