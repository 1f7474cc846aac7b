"""MeZO (Malladi et al. 2023, Fine-Tuning Language Models with Just Forward Passes): dense zeroth-order SGD."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from trainers.blackbox.gradients import Loss, slopes_along_pairs
from trainers.optimizer import Normal, SinglePointOptimizer, gaussian
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class MeZO(SinglePointOptimizer):
    """w ← w − η ĝ with ĝ = (1/q) Σ_j s_j u_j, s_j = [L(w + μ u_j) − L(w − μ u_j)] / (2μ), u_j ~ N(0, I); 2q queries.

    Rules that make another step of the same slopes s_j override `direction`.
    """

    def __init__(self, w0: Tensor, lr: float, mu: float, normal: Normal, q: int = 1):
        super().__init__(w0, 2 * q)
        self.lr, self.mu, self.normal, self.q = lr, mu, normal, q

    def step(self, loss: Loss) -> dict[str, float]:
        """Returns loss (mean of the ± pairs) and the norm of ĝ, before the rule makes its direction of it."""
        gradient, direction, mean_loss = self.probe(loss)
        self.w = self.w - self.lr * direction
        return {"loss": mean_loss, "grad_norm": float(gradient.norm())}

    def probe(self, loss: Loss) -> tuple[Tensor, Tensor, float]:
        """ĝ (d,), the direction (d,) that the rule makes of it, and the mean of the 2q losses."""
        u = self.directions()
        slopes, mean_loss = slopes_along_pairs(loss, self.w, self.mu, u)
        gradient = (slopes[:, None] * u).mean(0)
        return gradient, self.direction(gradient, slopes, u), mean_loss

    def directions(self) -> Tensor:
        """u (q, d)."""
        return self.normal(self.q, len(self.w))

    def direction(self, gradient: Tensor, slopes: Tensor, u: Tensor) -> Tensor:
        """What w moves against (d,), of ĝ (d,) and of the slopes s (q,) along u (q, d)."""
        return gradient


def build(config: Config, problem: Problem) -> MeZO:
    return MeZO(problem.initial, config.zo_lr, config.zo_eps_rge, gaussian(config), config.num_pertub)
