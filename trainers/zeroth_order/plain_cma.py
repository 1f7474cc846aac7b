"""CMA-ES at pycma's own population size and full covariance: the reference for SharpZO's first stage."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from trainers.blackbox.cmaes import NaiveCMAES, configured_cmaes
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


def default_popsize(d: int) -> int:
    """4 + ⌊3 ln d⌋ (Hansen 2016): 22 at d = 512."""
    return 4 + math.floor(3 * math.log(d))


def build(config: Config, problem: Problem) -> NaiveCMAES:
    """Starts from the same w0 as the other trainers and deploys the search mean. S follows from d; `--popsize` has no effect."""
    config = dataclasses.replace(config, popsize=default_popsize(len(problem.initial)))
    return NaiveCMAES(configured_cmaes(config, problem.initial, stream="plain CMA-ES"), deploy="mean")
