"""PolyStep (Le 2026, Training Non-Differentiable Networks via Optimal Transport), by its authors' package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from polystep import PolyStepES
from torch import Tensor

from trainers.blackbox.gradients import Loss
from trainers.optimizer import SinglePointOptimizer
from utils.seeds import torch_generator
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class PolyStep(SinglePointOptimizer):
    """x ← Σ_i p_i (x + ρ v_i), p = softmax(−c / τ), c_i = (L(x + ρ v_i) − min L) / mean of that; 2d queries a particle.

    v_i: the 2d vertices ± of a cross-polytope, turned at random in each step. Every particle x starts at w0 and has its own turn
    and softmax (the minimum and the mean are over all of them); the estimate is their mean.
    """

    def __init__(self, w0: Tensor, radius: float, temperature: float, particles: int, generator: torch.Generator):
        self.es = PolyStepES(
            len(w0), num_particles=particles, epsilon=temperature, step_radius=radius, x0=w0[None], dtype=w0.dtype
        )
        # its turns otherwise come from torch's global generator
        self.es.generator = generator
        super().__init__(w0, self.es.popsize)

    def step(self, loss: Loss) -> dict[str, float]:
        losses = loss(self.es.ask())
        self.es.tell(losses)
        before, self.w = self.w, self.es.mean
        return {"loss": float(losses.mean()), "best_loss": float(losses.min()), "moved": float((self.w - before).norm())}


def build(config: Config, problem: Problem) -> PolyStep:
    generator = torch_generator(config.seed, "polytope rotations")
    return PolyStep(problem.initial, config.polystep_radius, config.polystep_temperature, config.polystep_particles, generator)
