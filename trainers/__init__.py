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
    trainer's defaults differ from Config's. `two_stages`: whether change_point matters.
    """

    help: str
    build: str
    problem: str = "trainers.problem:projected_prompt"
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    two_stages: bool = False


TRAINERS = {
    "zo-pruned": TrainerInfo("SharpZO as published", "trainers.sharpzo:build", two_stages=True),
    "zo": TrainerInfo(
        "SharpZO with a dense stage 2", "trainers.sharpzo:build", defaults=MappingProxyType({"pruning": "none"}), two_stages=True
    ),
    "cma-es": TrainerInfo("stage 1 to the end", "trainers.sharpzo:build"),
    "fo": TrainerInfo("gradient descent by backpropagation, for reference", "trainers.first_order:build"),
    "zero-shot": TrainerInfo("the template alone, nothing trained", ""),
}
