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

from trainers.blackbox.gradients import LossFunction
from utils.errors import UserError
from utils.seeds import numpy_generator
from utils.settings import Config

with warnings.catch_warnings():
    # pycma says where matplotlib is missing, which only its plots would need
    warnings.simplefilter("ignore", UserWarning)
    import cma


class CMAES:
    """pycma's CMA-ES with random numbers from `normal(n, d)`, standard normals of the run's own stream.

    pycma would otherwise reseed numpy's global generator. `bound`: box ±bound, 0 for none. `diagonal`: C stays diagonal
    (sep-CMA-ES).
    """

    def __init__(
        self,
        w0: Tensor,
        *,
        sigma: float,
        popsize: int,
        normal: Callable[[int, int], np.ndarray],
        bound: float = 0.0,
        diagonal: bool = False,
    ):
        self._sigma0 = sigma
        self._options = {"popsize": popsize, "randn": normal, "seed": math.nan, "verbose": -9, "CMA_diagonal": diagonal}
        if bound:
            self._options["bounds"] = [-bound, bound]
        self._threads = ThreadpoolController()
        self.start_from(w0)

    def start_from(self, w: Tensor) -> None:
        """Starts anew from the search mean w (d,), with the first σ and C = I."""
        with self._quiet():
            self.es = cma.CMAEvolutionStrategy(w.numpy().copy(), self._sigma0, dict(self._options))

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Limits pycma to one BLAS thread (its eigendecomposition of d × d runs 4 to 30 times slower on more).

        Silences InjectionWarning, which pycma raises for populations that are sampled but never passed to `tell`.
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

    def sample(self) -> Tensor:
        """A population (S, d) that is not passed to `tell`."""
        return self.ask()

    def tell(self, candidates: Tensor, losses: Tensor) -> None:
        """Updates θ, σ, C from the losses (S,) of the `candidates` (S, d) that `ask` gave."""
        with self._quiet():
            self.es.tell(list(candidates.numpy()), losses.tolist())


def configured_cmaes(
    config: Config, w0: Tensor, *, start: Tensor | None = None, stream: str = "CMA-ES", diagonal: bool = False
) -> CMAES:
    """CMA-ES from w0 (d,), or from `start`, with the settings' σ, S and bound, on the random stream of this name.

    Raises UserError where w0 lies outside the bounds, which pycma cannot start from.
    """
    if config.bound and float(w0.abs().max()) > config.bound:
        raise UserError(f"--init_std: {config.init_std} puts the first w outside the box of --bound {config.bound}")
    generator = numpy_generator(config.seed, stream)
    return CMAES(
        w0 if start is None else start,
        sigma=config.sigma,
        popsize=config.popsize,
        bound=config.bound,
        normal=lambda n, d: generator.standard_normal((n, d)),
        diagonal=diagonal,
    )


class NaiveCMAES:
    """One CMA-ES generation per step, S queries.

    `deploy`: the point that is used. "mean": the search mean. "fresh-mean": the mean of another population, drawn after each
    update (the search mean before the first). "best": the candidate of the lowest loss seen (the mean before the first).

    >>> import torch
    >>> generator = np.random.default_rng(1)
    >>> normal = lambda n, d: generator.standard_normal((n, d))
    >>> inner = CMAES(torch.zeros(3, dtype=torch.float64), sigma=0.3, popsize=8, normal=normal)
    >>> optimizer = NaiveCMAES(inner, deploy="best")
    >>> bowl = lambda W, mu=None: (W - 1).square().sum(1)
    >>> for _ in range(40):
    ...     figures = optimizer.step(bowl)
    >>> optimizer.num_queries(40), figures["best_loss"] < 1e-2
    (320, True)
    """

    stage = 1

    def __init__(self, inner: CMAES, *, deploy: str):
        self.inner, self.deploy = inner, deploy
        self.best_loss = float("inf")
        self.solution: Tensor = inner.mean

    def start_from(self, w: Tensor) -> None:
        self.inner.start_from(w)
        self.solution = self.inner.mean

    def num_queries(self, steps: int) -> int:
        return steps * self.inner.popsize

    def step(self, objective: LossFunction) -> dict[str, float]:
        """One generation. Returns loss (mean of the candidates), best_loss (of the run so far) and sigma."""
        candidates = self.inner.ask()
        losses = objective(candidates)
        self.inner.tell(candidates, losses)
        lowest = int(losses.argmin())
        improved = float(losses[lowest]) < self.best_loss
        self.best_loss = min(self.best_loss, float(losses[lowest]))
        if self.deploy == "mean":
            self.solution = self.inner.mean
        elif self.deploy == "fresh-mean":
            self.solution = self.inner.sample().mean(0)
        elif improved:
            self.solution = candidates[lowest]
        return {"loss": float(losses.mean()), "best_loss": self.best_loss, "sigma": self.inner.sigma}


def naive_cmaes(config: Config, d: int) -> NaiveCMAES:
    """CMA-ES from 0 (d,) with the settings' σ, S, bound and deployed point."""
    return NaiveCMAES(configured_cmaes(config, torch.zeros(d, dtype=torch.float64)), deploy=config.deploy)
