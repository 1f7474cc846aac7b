"""Times the gradient in forward mode against central differences, in turn, and compares both with autograd.

    python -m tools.maintain.forward_mode      # Mini's size and ViT-B/16's, digits' and EuroSAT's names, one thread

Weights and image features are random. Times are medians over rounds, in milliseconds per coordinate (two queries of central
differences, or one tangent); errors are relative to autograd in float64.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import torch
from torch import Tensor

from tools.benchmark import TEXT, class_names, make_subject, random_backbone, timed
from tools.common.cli import command, make_parser
from tools.common.tables import Table
from trainers.blackbox.gradients import cge
from trainers.blackbox.objective import Objective

# text tower, names, d, std of A, coordinates that a round takes
MINI = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2}
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
MU = 1e-3


def measure(objective: Objective, w: Tensor, coordinates: int, rounds: int) -> dict[str, float]:
    basis = torch.eye(len(w), dtype=w.dtype)[:coordinates]
    chosen = torch.arange(coordinates)
    jobs = {
        "cge": lambda: cge(objective, w, MU, chosen),
        "jvp": lambda: objective.jvp(w, basis),
        "pair": lambda: objective(torch.stack([w, w])),
        "one tangent": lambda: objective.jvp(w, basis[:1]),
    }
    for job in jobs.values():
        job()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(1000 * timed(job))
    figures = {name: statistics.median(each) for name, each in times.items()}
    figures["cge"] /= coordinates
    figures["jvp"] /= coordinates

    def slopes(precision: str, forward: bool) -> Tensor:
        objective.precision = precision
        return objective.jvp(w, basis)[1] if forward else cge(objective, w, MU, chosen)[0][:coordinates]

    objective.precision = "float64"
    gradient = objective.gradient(w)[1][:coordinates]
    for name, precision, forward in (("cge error", "float32", False), ("jvp error", "float32", True), ("jvp64", "float64", True)):
        figures[name] = float((slopes(precision, forward) - gradient).norm() / gradient.norm())
    return figures


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.maintain.forward_mode", __doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args(argv).rounds
    torch.set_num_threads(1)
    subjects = {
        "Mini's, digits": make_subject(DIGITS, random_backbone(MINI), 256, 0.1),
        "ViT-B/16's, EuroSAT": make_subject(class_names("eurosat"), random_backbone(TEXT), 512, 1.0),
    }
    heads = ["text tower, names", "CGE, ms", "jvp, ms", "ratio", "two queries, ms", "one tangent, ms"]
    heads += ["CGE error", "jvp error", "jvp error, float64"]
    table = Table("Forward mode against central differences", heads)
    for name, subject in subjects.items():
        # as many as share a pass twice, so that an exact share of the coordinates does not matter
        model: Any = subject.by_engine.model
        coordinates = min(len(subject.W), 2 * model.tangents_per_pass(torch.float32))
        f = measure(subject.by_engine, subject.W[0], coordinates, rounds)
        cells = [
            f"{f['cge']:.3g}",
            f"{f['jvp']:.3g}",
            f"{f['jvp'] / f['cge']:.2f}",
            f"{f['pair']:.3g}",
            f"{f['one tangent']:.3g}",
        ]
        cells += [f"{f[key]:.1e}" for key in ("cge error", "jvp error", "jvp64")]
        table.rows.append([name, *cells])
        print(f"{name}: measured", file=sys.stderr, flush=True)
    print(table.grid())
    return 0


if __name__ == "__main__":
    sys.exit(main())
