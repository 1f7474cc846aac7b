"""CMA-ES by pycma, on the run's own random numbers, and the plain optimizer made of it."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from trainers.blackbox.gradients import Loss
from utils.errors import UserError
from utils.seeds import numpy_generator
from utils.settings import Config

with warnings.catch_warnings():
    # pycma says where matplotlib is missing, which only its plots would need
    warnings.simplefilter("ignore", UserWarning)
    import cma


class CMAES:
    """pycma's CMA-ES on its own random numbers.

    `normal(n, d)` draws standard normals; pycma would otherwise reseed numpy's global generator. `bound`: box ±bound, 0 for none.
    `diagonal`: C stays diagonal (sep-CMA-ES).
    """

    def __init__(
        self,
        w0: Tensor,
        sigma: float,
        popsize: int,
        bound: float,
        normal: Callable[[int, int], np.ndarray],
        diagonal: bool = False,
    ):
        options = {"popsize": popsize, "randn": normal, "seed": math.nan, "verbose": -9, "CMA_diagonal": diagonal}
        if bound:
            options["bounds"] = [-bound, bound]
        self._threads = ThreadpoolController()
        with self._quiet():
            self.es = cma.CMAEvolutionStrategy(w0.numpy().copy(), sigma, options)

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """pycma on one BLAS thread (its eigen-decomposition of d × d runs 4 to 30 times slower on more), without one warning.

        A population that is asked for and never told, as a fresh mean needs, may hold a point that pycma put there itself.
        """
        with self._threads.limit(limits=1, user_api="blas"), warnings.catch_warnings():
            warnings.simplefilter("ignore", cma.evolution_strategy.InjectionWarning)
            yield

    @property
    def d(self) -> int:
        return self.es.N

    @property
    def popsize(self) -> int:
        return self.es.popsize

    @property
    def sigma(self) -> float:
        return float(self.es.sigma)

    @property
    def mean(self) -> Tensor:
        """The search mean θ (d,), inside the bounds."""
        return torch.from_numpy(np.array(self.es.result.xfavorite, dtype=np.float64))

    def ask(self) -> Tensor:
        """A fresh population (S, d) ~ θ + σ N(0, C)."""
        with self._quiet():
            return torch.from_numpy(np.stack(self.es.ask()))

    def tell(self, candidates: Tensor, losses: Tensor) -> None:
        """Updates θ, σ, C from the losses (S,) of the `candidates` (S, d) that `ask` gave."""
        with self._quiet():
            self.es.tell(list(candidates.numpy()), losses.tolist())


def refuse_outside_box(config: Config, w0: Tensor) -> None:
    """Raises UserError where the first point lies outside the bounds, which pycma cannot start from."""
    if config.bound and float(w0.abs().max()) > config.bound:
        raise UserError(f"--init_std: {config.init_std} puts the first w outside the box of --bound {config.bound}")


class NaiveCMAES:
    """One CMA-ES generation a step, S queries.

    `deploy`: the point that is used. "mean": the search mean. "fresh-mean": the mean of another population, drawn after each
    update (the search mean before the first). "best": the candidate of the lowest loss seen (the mean before the first).
    """

    stage = 1

    def __init__(self, inner: CMAES, deploy: str):
        self.inner, self.deploy = inner, deploy
        self.best_loss = float("inf")
        self.solution: Tensor = inner.mean

    def num_queries(self, steps: int) -> int:
        return steps * self.inner.popsize

    def step(self, loss: Loss) -> dict[str, float]:
        """One generation. Returns loss (mean of the candidates), best_loss (of the run so far) and sigma."""
        candidates = self.inner.ask()
        losses = loss(candidates)
        self.inner.tell(candidates, losses)
        lowest = int(losses.argmin())
        improved = float(losses[lowest]) < self.best_loss
        self.best_loss = min(self.best_loss, float(losses[lowest]))
        if self.deploy == "mean":
            self.solution = self.inner.mean
        elif self.deploy == "fresh-mean":
            self.solution = self.inner.ask().mean(0)
        elif improved:
            self.solution = candidates[lowest]
        return {"loss": float(losses.mean()), "best_loss": self.best_loss, "sigma": self.inner.sigma}


def naive_cmaes(config: Config, d: int) -> NaiveCMAES:
    """CMA-ES from 0 (d,) with the settings' σ, S, bound and deployed point."""
    generator = numpy_generator(config.seed, "CMA-ES")
    zeros = torch.zeros(d, dtype=torch.float64)
    inner = CMAES(zeros, config.sigma, config.popsize, config.bound, lambda n, size: generator.standard_normal((n, size)))
    return NaiveCMAES(inner, config.deploy)
