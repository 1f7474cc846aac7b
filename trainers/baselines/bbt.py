"""BBT: naive CMA-ES on the projected prompt (Sun et al. 2022), by the protocol of CraFT's ablation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainers.blackbox.cmaes import NaiveCMAES, naive_cmaes
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


def build(config: Config, problem: Problem) -> NaiveCMAES:
    return naive_cmaes(config, len(problem.initial))
