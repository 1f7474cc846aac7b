"""Forward gradient (Baydin et al. 2022; Forward-Grad in Zhang et al. 2024): exact slopes along random directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from trainers.blackbox.gradients import Loss
from trainers.optimizer import Normal, SinglePointOptimizer, gaussian
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class ForwardGradient(SinglePointOptimizer):
    """w ← w − (η/q) Σ_j (∇L·v_j) v_j, v_j ~ N(0, I), the slopes by forward-mode differentiation; q queries, one a tangent.

    `loss` must offer `jvp(w, tangents)` → L(w) and the slopes (q,).
    """

    def __init__(self, w0: Tensor, lr: float, normal: Normal, q: int = 1):
        super().__init__(w0, q)
        self.lr, self.normal = lr, normal

    def step(self, loss: Loss) -> dict[str, float]:
        v = self.normal(self.queries, len(self.w))
        value, slopes = loss.jvp(self.w, v)
        gradient = (slopes[:, None] * v).mean(0)
        self.w = self.w - self.lr * gradient
        return {"loss": float(value), "grad_norm": float(gradient.norm())}


def build(config: Config, problem: Problem) -> ForwardGradient:
    return ForwardGradient(problem.initial, config.zo_lr, gaussian(config), config.num_pertub)
