"""sep-CMA-ES (Ros and Hansen 2008): CMA-ES with a diagonal covariance, time and memory linear in d; S queries per step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainers.blackbox.cmaes import CMAES, NaiveCMAES, refuse_outside_box
from utils.seeds import numpy_generator
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


def build(config: Config, problem: Problem) -> NaiveCMAES:
    """The search mean is deployed. pycma's other linear variants draw from numpy's global generator, so they are not offered."""
    refuse_outside_box(config, problem.initial)
    generator = numpy_generator(config.seed, "sep-CMA-ES")
    inner = CMAES(
        problem.initial,
        config.sigma,
        config.popsize,
        config.bound,
        lambda n, size: generator.standard_normal((n, size)),
        diagonal=True,
    )
    return NaiveCMAES(inner, "mean")
