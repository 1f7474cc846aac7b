"""The registry of trainers. Nothing heavy is imported until one is built."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import UserError


@dataclass(frozen=True)
class TrainerInfo:
    """One row of the registry.

    `help`: a line for --help. `build`: the optimizer, as "module:function" with the signature of
    `trainers.sharpzo.build.build`; "" where nothing is trained. `problem`: what it searches, "module:function" like
    `trainers.blackbox.problem.projected_prompt`. `restore`: how its saved prompt is used again, "module:function" like
    `trainers.saved.text_prompt`. `title`: the method's name in tables and figures. `aliases`: other values of
    --prompt_trainer for the same trainer. `defaults`: settings in which its defaults differ from Config's. `by_shots`: those
    that depend on the shots, {setting: {least shots: value}}. `two_stages`: whether change_point matters. `stage2`: whether
    `--stage2` accepts it, since it starts from any w. `matrix`: it moves a matrix, so w0 is one. `derivative`: it
    differentiates the loss. `update`: whether `--zo_update` replaces its update. `prompt`: whether it searches a prompt by
    queries; otherwise it is a reference without prompts, on cached features. `shared`: whether the ranks of one run can share
    its work, which is so where all of it is queries in forward passes.
    """

    help: str
    build: str
    problem: str = "trainers.blackbox.problem:projected_prompt"
    restore: str = "trainers.saved:text_prompt"
    title: str = ""
    aliases: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    by_shots: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    two_stages: bool = False
    stage2: bool = False
    matrix: bool = False
    derivative: bool = False
    update: bool = False
    prompt: bool = True
    shared: bool = True

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return bool(self.build)


EXTERNAL = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Registry(dict[str, TrainerInfo]):
    """Trainers by name. A lookup by an alias finds the trainer too; iteration gives each trainer once, by its own name.

    "my_module:build" is an optimizer of the projected prompt from outside: a function with the signature of
    `trainers.sharpzo.build.build`, in a module on Python's path or in the working directory.
    """

    def canonical(self, name: str) -> str:
        """The trainer's own name for a name or an alias; an unknown name as given."""
        return next((key for key, info in self.items() if name in info.aliases), name)

    def __missing__(self, name: str) -> TrainerInfo:
        if EXTERNAL.fullmatch(name):
            return TrainerInfo("an optimizer from outside", name, title=name)
        key = self.canonical(name)
        if key == name:
            raise KeyError(name)
        return self[key]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (super().__contains__(self.canonical(name)) or bool(EXTERNAL.fullmatch(name)))


def _descent(name: str, help: str, title: str, derivative: bool = False) -> TrainerInfo:
    """A composition of a gradient estimator and an update."""
    return TrainerInfo(
        help, f"trainers.zeroth_order.descent:{name}", title=title, stage2=True, derivative=derivative, update=True
    )


def _zeroth_order(
    build: str, help: str, title: str, defaults: Mapping[str, Any] | None = None, update: bool = False
) -> TrainerInfo:
    """An optimizer of trainers/zeroth_order that starts from any w."""
    where = f"trainers.zeroth_order.{build}"
    return TrainerInfo(help, where, title=title, defaults=defaults or {}, stage2=True, update=update)


ZIP = {"ctx_init": "", "n_ctx": 8, "intrinsic_dim": 500, "zo_clip": True}

TRAINERS = Registry(
    {
        "sharpzo": TrainerInfo(
            "SharpZO as published", "trainers.sharpzo.build:build", title="SharpZO", aliases=("zo-pruned",), two_stages=True
        ),
        "zo": TrainerInfo(
            "SharpZO with a dense stage 2",
            "trainers.sharpzo.build:build",
            title="SharpZO, dense stage 2",
            defaults={"pruning": "none"},
            two_stages=True,
        ),
        "cma-es": TrainerInfo("SharpZO's stage 1 to the end", "trainers.sharpzo.build:build", title="Sharpness-aware CMA-ES"),
        "sharpzo+": TrainerInfo(
            "ours: SharpZO whose shift and masks cost no query, with schedules that follow the budget",
            "trainers.sharpzo.plus:build",
            title="SharpZO+",
            defaults={"zo_lr": 0.2, "zo_eps_rge": 0.01, "prune_interval": 40},
            update=True,
        ),
        "fo": TrainerInfo(
            "gradient descent by backpropagation, for reference",
            "trainers.baselines.gradient_descent:build",
            title="Gradient descent",
            stage2=True,
            derivative=True,
            update=True,
            shared=False,
        ),
        "bbt": TrainerInfo(
            "naive CMA-ES on the projected prompt",
            "trainers.baselines.bbt:build",
            title="BBT",
            defaults={"sigma": 1.0},
            by_shots={"max_queries": {1: 2000, 2: 4000, 8: 8000}},
        ),
        "zip": TrainerInfo(
            "low-rank prompt through Fastfood maps, by clipped SPSA",
            "trainers.zeroth_order.spsa:build",
            "trainers.baselines.zip:problem",
            title="ZIP",
            defaults=ZIP | {"max_queries": 5000},
        ),
        "zip-20k": TrainerInfo(
            "zip for 20,000 steps, as the SharpZO paper reran it",
            "trainers.zeroth_order.spsa:build",
            "trainers.baselines.zip:problem",
            title="ZIP (20,000 steps)",
            defaults=ZIP,
        ),
        "coop": TrainerInfo(
            "the context itself, by SGD with backpropagation",
            "trainers.baselines.coop:build",
            "trainers.baselines.coop:problem",
            title="CoOp",
            defaults={"ctx_init": "", "n_ctx": 16, "train_batch": 32, "total_steps": 10**9},
            by_shots={"epochs": {1: 50, 2: 100, 8: 200}},
            derivative=True,
            shared=False,
        ),
        "craft": TrainerInfo(
            "projected prompt by CMA-ES, adapter by backpropagation",
            "trainers.baselines.craft:build",
            "trainers.baselines.craft:problem",
            "trainers.baselines.craft:restore",
            title="CraFT",
            defaults={"sigma": 1.0, "lr": 1e-3, "train_batch": 256},
            by_shots={"total_steps": {1: 50, 2: 100, 8: 200}},
            shared=False,
        ),
        "blackvip": TrainerInfo(
            "image-dependent prompt on the pixels, by SPSA with momentum",
            "trainers.zeroth_order.spsa:build",
            "trainers.baselines.blackvip.problem:problem",
            "trainers.baselines.blackvip.problem:restore",
            title="BlackVIP",
            defaults={"epochs": 5000, "total_steps": 62_500, "moms": 0.9},
        ),
        "bpt-vlm": TrainerInfo(
            "prompt tokens of both towers, by CMA-ES",
            "trainers.baselines.bpt_vlm:build",
            "trainers.baselines.bpt_vlm:problem",
            "trainers.baselines.bpt_vlm:restore",
            title="BPT-VLM",
            defaults={"ctx_init": "", "n_ctx": 8, "intrinsic_dim": 500, "std": 1.0, "popsize": 30, "sigma": 1.0, "bound": 0.0}
            | {"deploy": "best", "max_queries": 3600},
        ),
        "tip-adapter": TrainerInfo(
            "without prompts: training-free cache of the few-shot features beside zero-shot CLIP",
            "trainers.references.tip_adapter:build",
            "trainers.references.tip_adapter:problem",
            "trainers.references.tip_adapter:restore",
            title="Tip-Adapter",
            defaults={"total_steps": 36},
            prompt=False,
            shared=False,
        ),
        "linear-probe": TrainerInfo(
            "without prompts: logistic regression on the few-shot features",
            "trainers.references.linear_probe:build",
            "trainers.references.linear_probe:problem",
            "trainers.references.linear_probe:restore",
            title="Linear probe",
            defaults={"total_steps": 6},
            prompt=False,
            shared=False,
        ),
        "mezo": _descent("mezo", "dense ZO-SGD along random directions", "MeZO"),
        "sparse-mezo": _descent("sparse_mezo", "MeZO on the coordinates of small magnitude", "Sparse MeZO"),
        "cge": _descent("cge", "descent along coordinate-wise differences", "CGE descent"),
        "zo-sign": _descent("zo_sign", "MeZO with sign updates", "ZO-signSGD"),
        "zo-momentum": _descent("zo_momentum", "MeZO with averaged estimates", "ZO-Momentum"),
        "zo-adam": _descent("zo_adam", "Adam on MeZO's estimates", "ZO-Adam"),
        "zo-conservative": _descent("zo_conservative", "MeZO that keeps the best of three points", "ZO-Conservative"),
        "forward-gradient": _descent(
            "forward_gradient", "exact slopes along random directions, by forward mode", "Forward gradient", derivative=True
        ),
        "lozo": TrainerInfo(
            "low-rank perturbations of the context matrix",
            "trainers.zeroth_order.lozo:build",
            title="LOZO",
            defaults={"prompt_space": "full"},
            stage2=True,
            matrix=True,
        ),
        "polystep": TrainerInfo(
            "barycenter of a polytope's vertices", "trainers.zeroth_order.polystep:build", title="PolyStep", stage2=True
        ),
        "rank-sgd": TrainerInfo(
            "ranks of losses alone, then a line search",
            "trainers.zeroth_order.rank_sgd:build",
            title="ZO-RankSGD",
            stage2=True,
        ),
        "sep-cma": TrainerInfo(
            "CMA-ES with a diagonal covariance", "trainers.zeroth_order.sep_cma:build", title="sep-CMA-ES", stage2=True
        ),
        "spsa": TrainerInfo("SPSA with ZIP's decaying steps", "trainers.zeroth_order.spsa:build", title="SPSA", stage2=True),
        "adam-cge": _descent("adam_cge", "Adam on coordinate-wise differences", "Adam on CGE"),
        "lbfgs": _zeroth_order("lbfgs:build", "scipy's L-BFGS on coordinate-wise differences", "L-BFGS"),
        "openai-es": _zeroth_order(
            "population:openai_es",
            "centered ranks of antithetic pairs, with Adam",
            "OpenAI-ES",
            {"probes": 20},
            True,
        ),
        "plain-cma": _zeroth_order("plain_cma:build", "CMA-ES at pycma's default population", "CMA-ES"),
        "fzoo": _zeroth_order("population:fzoo", "±1 probes over the spread of their losses", "FZOO", update=True),
        "r-adazo": _zeroth_order(
            "population:r_adazo",
            "Adam with the second moment of its momentum",
            "R-AdaZO",
            {"probes": 10, "beta2": 0.99},
            True,
        ),
        "conmezo": _zeroth_order("conmezo:build", "MeZO in a cone around the momentum", "ConMeZO", {"beta1": 0.95}),
        "curvzo": _zeroth_order("curvzo:build", "MeZO on coordinates sampled by a score (our reading of a port)", "CurvZO"),
        "zoar": _zeroth_order(
            "population:zoar",
            "reuses the probes of earlier steps",
            "ZoAR",
            {"probes": 10, "beta2": 0.99, "zo_eps_rge": 0.05},
            True,
        ),
        "guided-es": _zeroth_order("guided_es:build", "probes along its own past estimates", "Guided ES", update=True),
        "zosa": _zeroth_order(
            "sharpness:zosa", "FZOO at a worst-case shift (our reading of a summary)", "ZOSA (our reading)", update=True
        ),
        "zest": _zeroth_order(
            "sharpness:zest", "tilted ZO-SAM (our reading of a summary)", "Tilted ZO-SAM (our reading)", update=True
        ),
        "loren": _zeroth_order("loren:build", "probes that damp one learned direction", "LOREN", {"probes": 6}),
        "bszo": _zeroth_order("bszo:build", "slopes fused by a Kalman filter", "BSZO", {"probes": 2}, True),
        "zero-shot": TrainerInfo("the template alone, nothing trained", "", title="Zero-shot", shared=False),
        "saved": TrainerInfo("the prompt that --load_prompt names, nothing trained", "", title="Saved prompt", shared=False),
    }
)


def registered(name: str) -> Callable[..., Any]:
    """The function that a registry entry names as "module:function".

    Raises UserError if `--prompt_trainer` names a module or function that does not exist.
    """
    module, _, function = name.partition(":")
    # last, so that a file there does not hide a package
    sys.path.append(str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        if module.startswith("trainers."):
            raise
        raise UserError(f"--prompt_trainer: {name}: cannot be imported: {error}") from error
    finally:
        sys.path.pop()


def moves_a_matrix(trainer: str, stage2: str) -> bool:
    """Whether the optimizer, or the one in its second stage, requires w0 as a matrix."""
    info = TRAINERS[trainer]
    return info.matrix or (info.two_stages and stage2 in TRAINERS and TRAINERS[stage2].matrix)
