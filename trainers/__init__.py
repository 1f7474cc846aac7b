"""Optimizers of a black box. The table below is the registry of trainers; nothing heavy is imported until one is built."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class TrainerInfo:
    """`build`: the optimizer, as "module:function" with the signature of `trainers.sharpzo.algorithm.build`; "" where nothing is
    trained.

    `problem`: what it searches, "module:function" as `trainers.blackbox.problem.projected_prompt`. `restore`: how its saved
    prompt is used again, "module:function" as `trainers.saved.text_prompt`. `defaults`: settings in which this trainer's
    defaults differ from Config's. `by_shots`: those that depend on the shots, {setting: {least shots: value}}. `two_stages`:
    whether change_point matters. `stage2`: `--stage2` may name it, since it goes on from any w. `matrix`: it moves a matrix, so
    that w0 is one. `derivative`: it differentiates the loss.
    """

    help: str
    build: str
    problem: str = "trainers.blackbox.problem:projected_prompt"
    restore: str = "trainers.saved:text_prompt"
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    by_shots: Mapping[str, Mapping[int, Any]] = field(default_factory=lambda: MappingProxyType({}))
    two_stages: bool = False
    stage2: bool = False
    matrix: bool = False
    derivative: bool = False


ZIP = MappingProxyType({"ctx_init": "", "n_ctx": 8, "intrinsic_dim": 500, "zo_clip": True})

TRAINERS = {
    "zo-pruned": TrainerInfo("SharpZO as published", "trainers.sharpzo.algorithm:build", two_stages=True),
    "zo": TrainerInfo(
        "SharpZO with a dense stage 2",
        "trainers.sharpzo.algorithm:build",
        defaults=MappingProxyType({"pruning": "none"}),
        two_stages=True,
    ),
    "cma-es": TrainerInfo("stage 1 to the end", "trainers.sharpzo.algorithm:build"),
    "fo": TrainerInfo(
        "gradient descent by backpropagation, for reference",
        "trainers.baselines.gradient_descent:build",
        stage2=True,
        derivative=True,
    ),
    "bbt": TrainerInfo(
        "naive CMA-ES on the projected prompt",
        "trainers.baselines.bbt:build",
        defaults=MappingProxyType({"sigma": 1.0}),
        by_shots=MappingProxyType({"max_queries": MappingProxyType({1: 2000, 2: 4000, 8: 8000})}),
    ),
    "zip": TrainerInfo(
        "low-rank prompt through Fastfood maps, by clipped SPSA",
        "trainers.zeroth_order.spsa:build",
        "trainers.baselines.zip:problem",
        defaults=MappingProxyType(ZIP | {"max_queries": 5000}),
    ),
    "zip-20k": TrainerInfo(
        "zip for 20 000 steps, as SharpZO's paper reran it",
        "trainers.zeroth_order.spsa:build",
        "trainers.baselines.zip:problem",
        defaults=ZIP,
    ),
    "coop": TrainerInfo(
        "the context itself by SGD through backpropagation",
        "trainers.baselines.coop:build",
        "trainers.baselines.coop:problem",
        defaults=MappingProxyType({"ctx_init": "", "n_ctx": 16, "train_batch": 32, "total_steps": 10**9}),
        by_shots=MappingProxyType({"epochs": MappingProxyType({1: 50, 2: 100, 8: 200})}),
        derivative=True,
    ),
    "craft": TrainerInfo(
        "projected prompt by CMA-ES, adapter by backpropagation",
        "trainers.baselines.craft:build",
        "trainers.baselines.craft:problem",
        "trainers.baselines.craft:restore",
        MappingProxyType({"sigma": 1.0, "lr": 1e-3, "train_batch": 256}),
        by_shots=MappingProxyType({"total_steps": MappingProxyType({1: 50, 2: 100, 8: 200})}),
    ),
    "blackvip": TrainerInfo(
        "picture-dependent prompt on the pixels, by SPSA with momentum",
        "trainers.zeroth_order.spsa:build",
        "trainers.baselines.blackvip.problem:problem",
        "trainers.baselines.blackvip.problem:restore",
        MappingProxyType({"epochs": 5000, "total_steps": 62_500, "moms": 0.9}),
    ),
    "bpt-vlm": TrainerInfo(
        "prompt tokens of both towers, by CMA-ES",
        "trainers.baselines.bpt_vlm:build",
        "trainers.baselines.bpt_vlm:problem",
        "trainers.baselines.bpt_vlm:restore",
        MappingProxyType(
            {"ctx_init": "", "n_ctx": 8, "intrinsic_dim": 500, "std": 1.0, "popsize": 30, "sigma": 1.0, "bound": 0.0}
            | {"deploy": "best", "max_queries": 3600}
        ),
    ),
    "mezo": TrainerInfo("dense ZO-SGD along random directions", "trainers.zeroth_order.mezo:build", stage2=True),
    "sparse-mezo": TrainerInfo(
        "MeZO on the coordinates of small magnitude", "trainers.zeroth_order.sparse_mezo:build", stage2=True
    ),
    "cge": TrainerInfo("descent along coordinate-wise differences", "trainers.zeroth_order.cge:build", stage2=True),
    "zo-sign": TrainerInfo("MeZO by signs", "trainers.zeroth_order.mezo_variants:build_sign", stage2=True),
    "zo-momentum": TrainerInfo("MeZO with averaged estimates", "trainers.zeroth_order.mezo_variants:build_momentum", stage2=True),
    "zo-adam": TrainerInfo("Adam on MeZO's estimates", "trainers.zeroth_order.mezo_variants:build_adam", stage2=True),
    "zo-conservative": TrainerInfo(
        "MeZO that keeps the best of three points", "trainers.zeroth_order.mezo_variants:build_conservative", stage2=True
    ),
    "forward-gradient": TrainerInfo(
        "exact slopes along random directions, by forward mode",
        "trainers.zeroth_order.forward_gradient:build",
        stage2=True,
        derivative=True,
    ),
    "lozo": TrainerInfo(
        "low-rank perturbations of the context matrix",
        "trainers.zeroth_order.lozo:build",
        defaults=MappingProxyType({"prompt_space": "full"}),
        stage2=True,
        matrix=True,
    ),
    "polystep": TrainerInfo("barycenter of a polytope's vertices", "trainers.zeroth_order.polystep:build", stage2=True),
    "rank-sgd": TrainerInfo("ranks of losses alone, then a line search", "trainers.zeroth_order.rank_sgd:build", stage2=True),
    "sep-cma": TrainerInfo("CMA-ES with a diagonal covariance", "trainers.zeroth_order.sep_cma:build", stage2=True),
    "spsa": TrainerInfo("SPSA with ZIP's decaying steps", "trainers.zeroth_order.spsa:build", stage2=True),
    "zero-shot": TrainerInfo("the template alone, nothing trained", ""),
    "saved": TrainerInfo("the prompt that --load_prompt names, nothing trained", ""),
}


def registered(name: str) -> Callable[..., Any]:
    """The function that a registry entry names as "module:function"."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def moves_a_matrix(trainer: str, stage2: str) -> bool:
    """Whether the optimizer, or what fills its second stage, wants w0 as a matrix."""
    info = TRAINERS[trainer]
    return info.matrix or (info.two_stages and stage2 in TRAINERS and TRAINERS[stage2].matrix)
