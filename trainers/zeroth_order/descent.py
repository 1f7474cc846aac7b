"""Trainers that combine a gradient estimator with an update; two add a mask or a choice among three points.

    mezo (Malladi et al. 2023)              RGE and SGD
    sparse-mezo (Liu et al. 2024)           RGE on the coordinates of small magnitude, and SGD
    cge (as DeepZero, Chen et al. 2023)     CGE and SGD
    forward-gradient (Baydin et al. 2022)   slopes in forward mode, and SGD
    zo-sign, zo-momentum, zo-adam           RGE with the updates of the ZO-LLM benchmark (Zhang et al. 2024)
    zo-conservative (same benchmark)        RGE, and the best of three points
    adam-cge (Kingma and Ba 2015)           CGE with Adam

`--zo_update` replaces the update in any of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from trainers.blackbox.estimators import CGE, RGE, ForwardGradient
from trainers.blackbox.gradients import LossFunction
from trainers.blackbox.masks import MagnitudePruning, Masked
from trainers.optimizer import Descent, gaussian
from trainers.updates import SGD, Adam, Momentum, RefinedAdam, Sign, Update
from utils.seeds import torch_generator
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem

UPDATES: dict[str, Callable[[Config], Update]] = {
    "sgd": lambda config: SGD(lr=config.zo_lr),
    "sign": lambda config: Sign(lr=config.zo_lr),
    "momentum": lambda config: Momentum(lr=config.zo_lr, beta1=config.beta1),
    "adam": lambda config: Adam(lr=config.zo_lr, beta1=config.beta1, beta2=config.beta2, epsilon=config.adam_eps),
    "r-adazo": lambda config: RefinedAdam(
        lr=config.zo_lr,
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=config.adam_eps,
        bias_correction=config.bias_correction,
    ),
}


def update(config: Config, default: str = "sgd") -> Update:
    """The update that `--zo_update` names, or the trainer's `default`."""
    return UPDATES[default if config.zo_update == "default" else config.zo_update](config)


class ZOConservative(Descent):
    """w ← the best of w, w − Δ and w + Δ (w on a tie), with Δ the update from ĝ; 3 queries on top of those for ĝ.

    >>> import torch
    >>> optimizer = ZOConservative(torch.ones(2, dtype=torch.float64), estimator=CGE(mu=1e-3), update=SGD(lr=0.5))
    >>> bowl = lambda W, mu=None: 0.5 * W.square().sum(1)
    >>> round(optimizer.step(bowl)["loss"], 6), optimizer.num_queries(1)
    (0.25, 7)
    """

    def num_queries(self, steps: int) -> int:
        return super().num_queries(steps) + 3 * steps

    def step(self, objective: LossFunction) -> dict[str, float]:
        """Returns loss (of the new point), grad_norm, and moved (0 or 1)."""
        estimate = self.estimator(objective, self.w)
        step = self.update(estimate.gradient, self.w)
        candidates = torch.stack([self.w, self.w - step, self.w + step])
        losses = objective(candidates)
        best = int(losses.argmin())
        self.w.copy_(candidates[best])
        norm = float(estimate.gradient.norm())
        return {"loss": float(losses[best]), "grad_norm": norm, **estimate.figures, "moved": float(best > 0)}


def _rge(config: Config, sign_of_slope: bool = False) -> RGE:
    return RGE(mu=config.zo_eps_rge, normal=gaussian(config), q=config.num_pertub, sign_of_slope=sign_of_slope)


def mezo(config: Config, problem: Problem) -> Descent:
    return Descent(problem.initial, estimator=_rge(config), update=update(config))


def sparse_mezo(config: Config, problem: Problem) -> Descent:
    """MeZO on the coordinates of small magnitude: the ⌊r·d⌋ largest do not move.

    The paper fixes a threshold on |w_i| before training, from pretrained weights. Here w starts as noise around 0 and would
    outgrow a fixed threshold at once, so the coordinates are ranked again every `--prune_interval` steps.
    """
    rule = MagnitudePruning(ratio=config.prune_ratio, keep_small=True)
    estimator = Masked(_rge(config), rule=rule, interval=config.prune_interval)
    return Descent(problem.initial, estimator=estimator, update=update(config))


def cge(config: Config, problem: Problem) -> Descent:
    """Coordinate-wise differences along all coordinates, or along a share of them drawn in each step."""
    estimator = CGE(
        mu=config.zo_eps_cge,
        one_sided=config.cge_differences == "forward",
        share=config.cge_share,
        generator=torch_generator(config.seed, "CGE coordinates"),
    )
    return Descent(problem.initial, estimator=estimator, update=update(config))


def adam_cge(config: Config, problem: Problem) -> Descent:
    """Adam on central differences: the gradients that lbfgs sees, without curvature."""
    return Descent(problem.initial, estimator=CGE(mu=config.zo_eps_cge), update=update(config, "adam"))


def forward_gradient(config: Config, problem: Problem) -> Descent:
    estimator = ForwardGradient(normal=gaussian(config), q=config.num_pertub)
    return Descent(problem.initial, estimator=estimator, update=update(config))


def zo_sign(config: Config, problem: Problem) -> Descent:
    """By default, steps by the sign of each coordinate of the estimate; `--sign_of slope`: SGD on signed slopes."""
    of_slope = config.sign_of == "slope"
    return Descent(problem.initial, estimator=_rge(config, of_slope), update=update(config, "sgd" if of_slope else "sign"))


def zo_momentum(config: Config, problem: Problem) -> Descent:
    return Descent(problem.initial, estimator=_rge(config), update=update(config, "momentum"))


def zo_adam(config: Config, problem: Problem) -> Descent:
    return Descent(problem.initial, estimator=_rge(config), update=update(config, "adam"))


def zo_conservative(config: Config, problem: Problem) -> ZOConservative:
    return ZOConservative(problem.initial, estimator=_rge(config), update=update(config))
