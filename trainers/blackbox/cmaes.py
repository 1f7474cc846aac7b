"""pycma's CMA-ES with random numbers from the run's generator, and the plain optimizer built on it."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from trainers.blackbox.gradients import LossFunction
from utils.errors import UserError
from utils.seeds import numpy_generator
from utils.settings import Config

with warnings.catch_warnings():
    # pycma warns if matplotlib is missing, which only its plots need
    warnings.simplefilter("ignore", UserWarning)
    import cma


SIGMA_ADAPTATION = {
    "csa": cma.sigma_adaptation.CMAAdaptSigmaCSA,
    "tpa": cma.sigma_adaptation.CMAAdaptSigmaTPA,
}

# every option that decides the path of the search, so that a new version of pycma cannot change the algorithm by its defaults
# (4.5 changed AdaptSigma from d = 300 on). Tolerances are missing because they only matter to `stop`, which is never called.
OPTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "BoundaryHandler": cma.boundary_handler.BoundTransform,
        "CMA_active": True,
        "CMA_active_injected": 0,
        "CMA_cmean": 1,
        "CMA_const_trace": False,
        "CMA_dampsvec_fac": math.inf,
        "CMA_dampsvec_fade": 0.1,
        "CMA_diagonal_decoding": 0,
        "CMA_eigenmethod": np.linalg.eigh,
        "CMA_elitist": False,
        "CMA_injections_threshold_keep_len": 1,
        "CMA_mirrormethod": 2,
        "CMA_mu": None,
        "CMA_on": 1,
        "CMA_rankmu": 1.0,
        "CMA_rankone": 1.0,
        "CMA_recombination_weights": None,
        "CMA_sampler": None,
        "CMA_stds": None,
        "CMA_teststds": None,
        "CSA_clip_length_value": None,
        "CSA_damp_mueff_exponent": None,
        "CSA_dampfac": 1,
        "CSA_disregard_length": False,
        "CSA_invariant_path": False,
        "CSA_squared": False,
        "TPA_dampfac": 1,
        "conditioncov_alleviate": [1e8, 1e12],
        "fixed_variables": None,
        "integer_variables": [],
        "maxstd": None,
        "maxstd_boundrange": 1 / 3,
        "mean_shift_line_samples": False,
        "mindx": 0,
        "minstd": 0,
        "pc_line_samples": False,
        "popsize_factor": 1,
        "stall_sigma_change_on_divergence_iterations": False,
        "updatecovwait": None,
    }
)


def pycma_options(
    *, popsize: int, bound: float, normal: Callable[[int, int], np.ndarray], diagonal: bool, sigma_adaptation: str
) -> dict[str, Any]:
    """All options for pycma, except those that the installed version does not have yet."""
    known = cma.CMAOptions()
    written = {name: value for name, value in OPTIONS.items() if name in known}
    return written | {
        "AdaptSigma": SIGMA_ADAPTATION[sigma_adaptation],
        "CMA_diagonal": diagonal,
        # pycma mirrors some candidates of very small populations
        "CMA_mirrors": popsize < 6,
        "bounds": [-bound, bound] if bound else [None, None],
        "popsize": popsize,
        "randn": normal,
        "seed": math.nan,
        "verbose": -9,
    }


class CMAES:
    """pycma's CMA-ES with random numbers from `normal(n, d)`, standard normals of the run's own stream.

    pycma would otherwise reseed numpy's global generator. `bound`: box ±bound, 0 for none. `diagonal`: C stays diagonal
    (sep-CMA-ES). `sigma_adaptation`: "csa", cumulative step-size adaptation (Hansen), or "tpa", two-point adaptation.
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
        sigma_adaptation: str = "csa",
    ):
        self._sigma0 = sigma
        self._options = pycma_options(
            popsize=popsize, bound=bound, normal=normal, diagonal=diagonal, sigma_adaptation=sigma_adaptation
        )
        self._threads = ThreadpoolController()
        self.start_from(w0)

    def start_from(self, w: Tensor) -> None:
        """Restarts from the search mean w (d,), with the first σ and C = I."""
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
        if not self.es.mean_shift_samples:
            return self.ask()
        # candidates that are sampled one by one leave the mirrored pair of two-point adaptation to the next generation
        with self._quiet():
            return torch.from_numpy(np.stack([self.es.ask(1)[0] for _ in range(self.popsize)]))

    def tell(self, candidates: Tensor, losses: Tensor) -> None:
        """Updates θ, σ, C from the losses (S,) of the `candidates` (S, d) from `ask`."""
        with self._quiet():
            self.es.tell(list(candidates.numpy()), losses.tolist())


def configured_cmaes(
    config: Config, w0: Tensor, *, start: Tensor | None = None, stream: str = "CMA-ES", diagonal: bool = False
) -> CMAES:
    """CMA-ES from w0 (d,), or from `start`, with σ, S and bound from the settings, on the random stream of this name.

    Raises UserError if w0 lies outside the bounds, which pycma cannot start from.
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
        sigma_adaptation=config.sigma_adaptation,
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
    """CMA-ES from 0 (d,) with σ, S, bound and deployed point from the settings."""
    return NaiveCMAES(configured_cmaes(config, torch.zeros(d, dtype=torch.float64)), deploy=config.deploy)
