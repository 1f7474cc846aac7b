"""Stage 2: zeroth-order SGD on the coordinates that Z-pruning keeps (eqs. 4, 5)."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.blackbox.estimators import GradientEstimator
from trainers.blackbox.gradients import LossFunction
from trainers.blackbox.masks import Masked, MaskRule, num_dropped, prune_mask
from trainers.optimizer import Descent
from trainers.updates import SGD


def standardize(x: Tensor) -> Tensor:
    """z(x) = (x − mean) / std over the d coordinates; all zero if x has no spread."""
    # equal entries can have a tiny standard deviation by rounding
    return (x - x.mean()) / x.std(correction=0) if bool(x.max() > x.min()) else torch.zeros_like(x)


def z_pruning_score(w: Tensor, gradient: Tensor) -> Tensor:
    """Eq. 5: w² ⊙ z(g²)."""
    return w.square() * standardize(gradient.square())


class ZPruning:
    """Drops the ⌊ratio·d⌋ coordinates of the lowest score (eq. 5), the gradient g estimated by `estimator` (CGE)."""

    def __init__(self, estimator: GradientEstimator, *, ratio: float):
        self.estimator, self.ratio = estimator, ratio

    def num_queries(self, d: int) -> int:
        return self.estimator.num_queries(d)

    def num_kept(self, d: int) -> int:
        return d - num_dropped(d, self.ratio)

    def __call__(self, objective: LossFunction, w: Tensor) -> Tensor:
        return prune_mask(z_pruning_score(w, self.estimator(objective, w).gradient), self.ratio)


class SparseZO(Descent):
    """w ← w − η ĝ with ĝ the RGE along v = Ω ⊙ u, u ~ N(0, I) (eq. 4); Ω is refreshed every `interval` steps, first at once.

    `estimator` (RGE) costs 2q queries per step; a refresh costs those of `pruning`: 2d by Z-pruning. Logs `kept`, the share of
    coordinates in Ω.

    >>> import torch
    >>> from trainers.blackbox.estimators import CGE, RGE
    >>> generator = torch.Generator().manual_seed(1)
    >>> normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    >>> w0, pruning = torch.ones(4, dtype=torch.float64), ZPruning(CGE(mu=1e-5), ratio=0.5)
    >>> optimizer = SparseZO(w0, lr=0.05, estimator=RGE(mu=1e-3, normal=normal), pruning=pruning, interval=10)
    >>> bowl = lambda W, mu=None: W.square().sum(1)
    >>> optimizer.num_queries(1), optimizer.step(bowl)["kept"], optimizer.num_queries(1)
    (10, 0.5, 2)
    """

    stage = 2

    def __init__(self, w0: Tensor, *, lr: float, estimator: GradientEstimator, pruning: MaskRule, interval: int = 200):
        self.masked = Masked(estimator, rule=pruning, interval=interval)
        super().__init__(w0, estimator=self.masked, update=SGD(lr=lr))

    @property
    def mask(self) -> Tensor | None:
        """Ω (d,) of the last step."""
        return self.masked.mask
