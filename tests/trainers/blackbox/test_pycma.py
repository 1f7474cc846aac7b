"""pycma's options in force; every trainer built on pycma runs at the paper's size."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cma
import numpy as np
import pytest
import torch

from tests.trainers.test_every_trainer import settings, toy_problem
from trainers.baselines.bpt_vlm import LayerByLayer
from trainers.blackbox.cmaes import CMAES
from trainers.loop import build_optimizer

CSA, TPA = cma.sigma_adaptation.CMAAdaptSigmaCSA, cma.sigma_adaptation.CMAAdaptSigmaTPA
# options that affect the search, with the defaults of pycma 4.0 to 4.4 below d = 300
IN_FORCE = {
    "AdaptSigma": CSA,
    "BoundaryHandler": cma.boundary_handler.BoundTransform,
    "CMA_active": True,
    "CMA_active_injected": 0,
    "CMA_cmean": 1,
    "CMA_const_trace": False,
    "CMA_dampsvec_fac": math.inf,
    "CMA_dampsvec_fade": 0.1,
    "CMA_diagonal": False,
    "CMA_diagonal_decoding": 0,
    "CMA_eigenmethod": np.linalg.eigh,
    "CMA_elitist": False,
    "CMA_injections_threshold_keep_len": 1,
    "CMA_mirrormethod": 2,
    "CMA_mirrors": False,
    "CMA_mu": None,
    "CMA_on": 1,
    "CMA_rankmu": 1.0,
    "CMA_rankone": 1.0,
    "CMA_recombination_weights": None,
    "CMA_sampler": None,
    "CMA_sampler_options": {},
    "CMA_stds": None,
    "CMA_teststds": None,
    "CSA_clip_length_value": None,
    "CSA_damp_mueff_exponent": None,
    "CSA_dampfac": 1,
    "CSA_disregard_length": False,
    "CSA_invariant_path": False,
    "CSA_squared": False,
    "TPA_dampfac": 1,
    "bounds": [-5.0, 5.0],
    "conditioncov_alleviate": [1e8, 1e12],
    "fixed_variables": None,
    "integer_variables": [],
    "maxstd": None,
    "maxstd_boundrange": 1 / 3,
    "mean_shift_line_samples": False,
    "mindx": 0,
    "minstd": 0,
    "pc_line_samples": False,
    "popsize": 40,
    "popsize_factor": 1,
    "scaling_of_variables": None,
    "stall_sigma_change_on_divergence_iterations": False,
    "transformation": None,
    "typical_x": None,
    "updatecovwait": None,
}
# stopping (`stop` is never called), logging, and options that the constructor always receives
OTHERS = (
    "eval_final_mean",
    "ftarget",
    "is_feasible",
    "max",
    "randn",
    "seed",
    "signals",
    "termination",
    "timeout",
    "tol",
    "verb",
    "vv",
)


def make(d: int, **options) -> CMAES:
    generator = np.random.default_rng(0)
    start = torch.zeros(d, dtype=torch.float64)
    return CMAES(start, sigma=0.4, popsize=40, bound=5.0, normal=lambda n, d: generator.standard_normal((n, d)), **options)


@pytest.mark.parametrize("d", [256, 512])
def test_options_in_force_are_the_documented_ones(d: int) -> None:
    in_force = dict(make(d).es.opts)
    # pycma derives it from maxstd_boundrange and the box, for each coordinate
    assert in_force["maxstd"] == pytest.approx(10 / 3)
    in_force["maxstd"] = None
    expected = {name: value for name, value in IN_FORCE.items() if name != "TPA_dampfac" or name in in_force}
    assert {name: in_force[name] for name in expected} == expected
    # an option that a new version of pycma adds must be reviewed before its default affects a result
    assert {name for name in in_force if name not in IN_FORCE and not name.startswith(OTHERS)} == set()


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("rule", "kind"), [("csa", CSA), ("tpa", TPA)])
def test_step_size_rule_does_not_depend_on_the_dimension(rule: str, kind: type, diagonal: bool) -> None:
    for d in (6, 299, 300, 512):
        assert type(make(d, sigma_adaptation=rule, diagonal=diagonal).es.adapt_sigma) is kind


def searches(optimizer: object) -> Iterator[CMAES]:
    """Every CMA-ES that an optimizer holds."""
    if isinstance(optimizer, CMAES):
        yield optimizer
    elif isinstance(optimizer, LayerByLayer):
        yield from optimizer.layers
    else:
        yield from searches(getattr(optimizer, "stage1", None) or optimizer.inner)


@pytest.mark.parametrize(("rule", "kind"), [("csa", CSA), ("tpa", TPA)])
@pytest.mark.parametrize(
    ("trainer", "options"),
    [
        ("sharpzo", {}),
        ("zo", {"fidelity": "released", "pruning": "none"}),
        ("cma-es", {}),
        ("bbt", {"deploy": "fresh-mean"}),
        ("bbt", {"deploy": "mean"}),
        ("craft", {"deploy": "fresh-mean"}),
        ("bpt-vlm", {"deploy": "fresh-mean"}),
        ("bpt-vlm", {"deep": True, "intrinsic_dim": 256, "intrinsic_dim_v": 256}),
        ("sep-cma", {}),
        ("plain-cma", {}),
    ],
)
def test_five_generations_at_the_papers_size_with_a_second_population(trainer: str, options: dict, rule: str, kind: type) -> None:
    config = settings(trainer, change_point=100, sigma_adaptation=rule, smoothness_estimator="fo", **options)
    problem = toy_problem(config, d=512)
    optimizer = build_optimizer(config, problem)
    for _ in range(5):
        optimizer.step(problem.objective)
        for search in searches(optimizer):
            assert type(search.es.adapt_sigma) is kind
            assert search.sample().shape == (search.popsize, 512)
    assert torch.isfinite(optimizer.solution).all()


def test_a_second_population_does_not_disturb_two_point_adaptation() -> None:
    search = make(8, sigma_adaptation="tpa")
    for _ in range(4):
        candidates = search.ask()
        search.tell(candidates, (candidates - 1).square().sum(1))
        search.sample()
    pair = search.ask()[:2] - search.mean
    # the first two candidates lie on both sides of the mean, along its last move
    torch.testing.assert_close(pair[0], -pair[1], rtol=1e-6, atol=1e-6)
