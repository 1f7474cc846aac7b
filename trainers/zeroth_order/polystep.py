"""PolyStep (Le 2026, Training Non-Differentiable Networks via Optimal Transport), by its authors' package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from polystep import PolyStepES
from torch import Tensor

from trainers.blackbox.gradients import LossFunction
from trainers.optimizer import SinglePointOptimizer
from utils.seeds import torch_generator
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem


class PolyStep(SinglePointOptimizer):
    """x ← Σ_i p_i (x + ρ v_i), p = softmax(−c / τ), c_i = (L(x + ρ v_i) − min L) / mean(L − min L); 2d queries per particle.

    v_i: the 2d vertices of a cross-polytope, rotated at random in each step. Every particle x starts at w0 and has its own
    rotation and softmax (minimum and mean are over all particles); the solution is the particles' mean.

    >>> import torch
    >>> generator = torch.Generator().manual_seed(1)
    >>> optimizer = PolyStep(torch.ones(3, dtype=torch.float64), radius=0.5, temperature=0.5, generator=generator)
    >>> bowl = lambda W, mu=None: W.square().sum(1)
    >>> optimizer.step(bowl)["moved"] > 0, optimizer.num_queries(1)
    (True, 6)
    """

    def __init__(self, w0: Tensor, *, radius: float, temperature: float, particles: int = 1, generator: torch.Generator):
        self.radius, self.temperature, self.particles, self.generator = radius, temperature, particles, generator
        self.start_from(w0)
        super().__init__(w0, queries=self.es.popsize)

    def start_from(self, w: Tensor) -> None:
        self.w = w.clone()
        self.es = PolyStepES(
            len(w),
            num_particles=self.particles,
            epsilon=self.temperature,
            step_radius=self.radius,
            x0=w[None],
            dtype=w.dtype,
        )
        # rotations would otherwise come from torch's global generator
        self.es.generator = self.generator

    def step(self, objective: LossFunction) -> dict[str, float]:
        losses = objective(self.es.ask())
        self.es.tell(losses)
        before, self.w = self.w, self.es.mean
        return {"loss": float(losses.mean()), "best_loss": float(losses.min()), "moved": float((self.w - before).norm())}


def build(config: Config, problem: Problem) -> PolyStep:
    return PolyStep(
        problem.initial,
        radius=config.polystep_radius,
        temperature=config.polystep_temperature,
        particles=config.polystep_particles,
        generator=torch_generator(config.seed, "polytope rotations"),
    )
