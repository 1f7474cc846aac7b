"""What a whole gradient ∇L costs by the tangent engine and by central differences, and how exact each is."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.precision import multiplies_bfloat16_faster
from clip.text import TextFeatures
from trainers.blackbox.gradients import cge
from trainers.blackbox.objective import Objective

MU, MU_FLOAT64 = 1e-3, 1e-5
# tangents per round, so that the pass at w, which is timed on its own, does not decide the figure
LEAST_COORDINATES = 16
HEADS = (
    "names, N",
    "threads",
    "CGE f32, ms",
    "tangents f32, ms",
    "bf16, ms",
    "f32 / CGE",
    "bf16 / CGE",
    "bf16 / CGE f64",
    "CGE f32 error",
    "f32 error",
    "bf16 error",
    "cosine",
)


def measure_tangents(objective: Objective, text: TextFeatures, w: Tensor, rounds: int, passes: int) -> dict[str, float]:
    """Seconds of ∇L at w (d,) by each way, interleaved, the least of the rounds; ratios; errors against float64 tangents.

    A round takes as many coordinates as fill `passes` passes, and what a gradient needs once is counted once.
    """
    d = len(w)
    chunk = text.chunk(torch.float32)
    basis = torch.eye(d, dtype=w.dtype)[: min(d, max(passes * chunk, LEAST_COORDINATES))]
    m, pairs = len(basis), max(1, min(len(basis), passes * chunk) // 2)

    def slopes(precision: str) -> Tensor:
        objective.tangent_precision = precision
        return objective.jvp(w, basis)[1]

    def differences(mu: float, count: int) -> Tensor:
        return cge(objective, w, mu, torch.arange(count))[0][:count]

    ways = ["float32", *(["bfloat16"] if multiplies_bfloat16_faster(text.device) else [])]
    jobs: dict[str, Callable[[], Tensor]] = {
        "cge_float32": lambda: differences(MU, pairs),
        "cge_float64": lambda: differences(MU_FLOAT64, max(1, pairs // 4)),
        "once": lambda: objective.jvp(w, basis[:0])[1],
    }
    jobs |= {f"tangent_{way}": functools.partial(slopes, way) for way in ways}
    least = dict.fromkeys(jobs, float("inf"))
    found = {name: job() for name, job in jobs.items()}
    for _ in range(rounds):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            least[name] = min(least[name], time.perf_counter() - started)

    exact = at_precision(objective, "float64", lambda: objective.jvp(w, basis)[1])
    figures = {
        "cge_gradient_seconds_float32": least["cge_float32"] * d / pairs,
        "cge_gradient_seconds_float64": least["cge_float64"] * d / max(1, pairs // 4),
        "cge_gradient_error_float32": error(found["cge_float32"], exact),
    }
    for way in ways:
        seconds = least["once"] + (least[f"tangent_{way}"] - least["once"]) * d / m
        figures |= {
            f"tangent_seconds_{way}": seconds,
            f"tangent_ratio_{way}": seconds / figures["cge_gradient_seconds_float32"],
            f"tangent_ratio_{way}_to_float64": seconds / figures["cge_gradient_seconds_float64"],
            f"tangent_error_{way}": error(found[f"tangent_{way}"], exact),
            f"tangent_cosine_{way}": float(F.cosine_similarity(found[f"tangent_{way}"], exact, dim=0)),
        }
    return figures


def at_precision(objective: Objective, precision: str, work: Callable[[], Tensor]) -> Tensor:
    before, objective.precision = objective.precision, precision
    try:
        return work()
    finally:
        objective.precision = before


def error(found: Tensor, exact: Tensor) -> float:
    """The relative error of the coordinates that were found."""
    exact = exact[: len(found)]
    return float((found - exact).norm() / exact.norm())


def tangent_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Times per coordinate in Markdown; a coordinate is two queries of central differences or one tangent."""
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    for r in rows:

        def show(key: str, form: str, scale: float = 1.0, r: Mapping[str, Any] = r) -> str:
            return format(scale * r[key], form) if key in r else "–"

        per_coordinate = 1000 / r["coordinates"]
        cells = (
            f"{r['dataset']} {r['classes']}, {r['images']}",
            str(r["threads"]),
            show("cge_gradient_seconds_float32", ".3g", per_coordinate),
            show("tangent_seconds_float32", ".3g", per_coordinate),
            show("tangent_seconds_bfloat16", ".3g", per_coordinate),
            show("tangent_ratio_float32", ".2f"),
            show("tangent_ratio_bfloat16", ".3f"),
            show("tangent_ratio_bfloat16_to_float64", ".3f"),
            show("cge_gradient_error_float32", ".1e"),
            show("tangent_error_float32", ".1e"),
            show("tangent_error_bfloat16", ".1e"),
            show("tangent_cosine_bfloat16", ".5f"),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
