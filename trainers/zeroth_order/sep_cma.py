"""sep-CMA-ES (Ros and Hansen 2008): CMA-ES with a diagonal covariance, time and memory linear in d; S queries per step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainers.blackbox.cmaes import NaiveCMAES, configured_cmaes
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


def build(config: Config, problem: Problem) -> NaiveCMAES:
    """The search mean is deployed. pycma's other linear variants draw from numpy's global generator and are not offered."""
    return NaiveCMAES(configured_cmaes(config, problem.initial, stream="sep-CMA-ES", diagonal=True), deploy="mean")
