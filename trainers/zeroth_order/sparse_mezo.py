"""Sparse MeZO (Liu et al. 2024): perturbs and moves only the coordinates of small magnitude."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from trainers.blackbox.gradients import Loss
from trainers.blackbox.masks import prune_mask
from trainers.optimizer import Normal, gaussian
from trainers.zeroth_order.mezo import MeZO
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class SparseMeZO(MeZO):
    """MeZO along u ⊙ m with m_i = 1 where |w_i| is among the smallest: the ⌊r·d⌋ largest rest; 2q queries.

    The paper fixes a threshold of |w_i| before training, of weights that were pretrained. Here w starts as noise around 0 and
    would outgrow such a threshold at once, so that the share is ranked anew every `interval` steps.
    """

    def __init__(self, w0: Tensor, lr: float, mu: float, normal: Normal, q: int = 1, ratio: float = 0.5, interval: int = 200):
        super().__init__(w0, lr, mu, normal, q)
        self.ratio, self.interval = ratio, interval
        self.steps = 0

    def step(self, loss: Loss) -> dict[str, float]:
        if self.steps % self.interval == 0:
            self.mask = prune_mask(-self.w.abs(), self.ratio)
        self.steps += 1
        return super().step(loss) | {"kept": float(self.mask.mean())}

    def directions(self) -> Tensor:
        return self.mask * super().directions()


def build(config: Config, problem: Problem) -> SparseMeZO:
    normal = gaussian(config)
    return SparseMeZO(
        problem.initial, config.zo_lr, config.zo_eps_rge, normal, config.num_pertub, config.prune_ratio, config.prune_interval
    )
