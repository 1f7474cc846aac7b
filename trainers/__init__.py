"""Optimisers of a black box. The table below is the registry of trainers; nothing heavy is imported until one is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class TrainerInfo:
    """`build`: the optimiser, as "module:function" with the signature of `trainers.sharpzo.build`; "" where nothing is trained.

    `problem`: what it searches, "module:function" as `trainers.problem.projected_prompt`. `defaults`: settings in which this
    trainer's defaults differ from Config's. `by_shots`: those that depend on the shots, {setting: {least shots: value}}.
    `two_stages`: whether change_point matters.
    """

    help: str
    build: str
    problem: str = "trainers.problem:projected_prompt"
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    by_shots: Mapping[str, Mapping[int, Any]] = field(default_factory=lambda: MappingProxyType({}))
    two_stages: bool = False


ZIP = MappingProxyType({"ctx_init": "", "n_ctx": 8, "intrinsic_dim": 500, "zo_clip": True})

TRAINERS = {
    "zo-pruned": TrainerInfo("SharpZO as published", "trainers.sharpzo:build", two_stages=True),
    "zo": TrainerInfo(
        "SharpZO with a dense stage 2", "trainers.sharpzo:build", defaults=MappingProxyType({"pruning": "none"}), two_stages=True
    ),
    "cma-es": TrainerInfo("stage 1 to the end", "trainers.sharpzo:build"),
    "fo": TrainerInfo("gradient descent by backpropagation, for reference", "trainers.first_order:build"),
    "bbt": TrainerInfo(
        "naive CMA-ES on the projected prompt",
        "trainers.bbt:build",
        defaults=MappingProxyType({"sigma": 1.0}),
        by_shots=MappingProxyType({"max_queries": MappingProxyType({1: 2000, 2: 4000, 8: 8000})}),
    ),
    "zip": TrainerInfo(
        "low-rank prompt through Fastfood maps, by clipped SPSA",
        "trainers.spsa:build",
        "trainers.zip:problem",
        MappingProxyType(ZIP | {"max_queries": 5000}),
    ),
    "zip-20k": TrainerInfo(
        "zip for 20 000 steps, as SharpZO's paper reran it", "trainers.spsa:build", "trainers.zip:problem", ZIP
    ),
    "coop": TrainerInfo(
        "the context itself by SGD through backpropagation",
        "trainers.coop:build",
        "trainers.coop:problem",
        MappingProxyType({"ctx_init": "", "n_ctx": 16, "train_batch": 32, "total_steps": 10**9}),
        by_shots=MappingProxyType({"epochs": MappingProxyType({1: 50, 2: 100, 8: 200})}),
    ),
    "craft": TrainerInfo(
        "projected prompt by CMA-ES, adapter by backpropagation",
        "trainers.craft:build",
        "trainers.craft:problem",
        MappingProxyType({"sigma": 1.0, "lr": 1e-3, "train_batch": 256}),
        by_shots=MappingProxyType({"total_steps": MappingProxyType({1: 50, 2: 100, 8: 200})}),
    ),
    "blackvip": TrainerInfo(
        "picture-dependent prompt on the pixels, by SPSA with momentum",
        "trainers.spsa:build",
        "trainers.blackvip:problem",
        MappingProxyType({"epochs": 5000, "total_steps": 62_500, "moms": 0.9}),
    ),
    "bpt-vlm": TrainerInfo(
        "prompt tokens of both towers, by CMA-ES",
        "trainers.bpt_vlm:build",
        "trainers.bpt_vlm:problem",
        MappingProxyType(
            {"ctx_init": "", "n_ctx": 8, "intrinsic_dim": 500, "popsize": 30, "sigma": 1.0, "bound": 0.0, "deploy": "best"}
            | {"max_queries": 3600}
        ),
    ),
    "zero-shot": TrainerInfo("the template alone, nothing trained", ""),
}
