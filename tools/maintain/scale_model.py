"""How one run scales over devices: a model from measured times of passes and messages, as a table.

    python -m tools.maintain.scale_model docs/scale/measured.json              # the tables of docs/scale-measured.md
    python -m tools.maintain.scale_model --measure docs/scale/measured.json    # minutes

A step queries in calls. A call's B points are cut into passes of equal size, whose number is a multiple of N (--passes_multiple
N); each rank computes its share of passes, a ring all-gather of losses follows (N − 1 hops), and every rank repeats the update:

    seconds(B, N) = rounds · pass(B / passes) + (N − 1) · hop,    and once per step the update
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tools.common.cli import command, make_parser, user_path
from tools.common.tables import Table
from utils.config import load_config
from utils.numbers import ceil_div

DEVICES = (1, 8, 64, 512)
DATASETS = ("eurosat", "imagenet")


@dataclass(frozen=True)
class Machine:
    """Measured seconds. `passes`: by number of queries per pass; `double`: time of a pass in float64 over that in float32."""

    passes: Mapping[int, float]
    points_per_pass: int
    double: float
    update: float
    hop: float

    def pass_seconds(self, queries: float) -> float:
        """Seconds of a pass, interpolated between measured sizes and proportional beyond the largest."""
        sizes = sorted(self.passes)
        if queries > sizes[-1]:
            return self.passes[sizes[-1]] * queries / sizes[-1]
        return float(np.interp(queries, sizes, [self.passes[size] for size in sizes]))

    def call(self, queries: int, devices: int) -> float:
        """Seconds of one call of `queries` points."""
        passes = min(queries, ceil_div(ceil_div(queries, self.points_per_pass), devices) * devices)
        rounds = ceil_div(passes, devices)
        return rounds * self.pass_seconds(ceil_div(queries, passes)) + (devices - 1) * self.hop


@dataclass(frozen=True)
class Run:
    """The paper's run: d, S, T_c, T, K_int, and `pairs` of queries per stage-2 step.

    `exact`: whether the gradient for ε* is computed in float64, which depends on its step μ.
    """

    d: int
    popsize: int
    change_point: int
    steps: int
    interval: int
    exact: bool
    pairs: int = 1

    def stage1(self, machine: Machine, devices: int) -> float:
        """Seconds of a step: the gradient for ε*, then the population."""
        gradient = (machine.double if self.exact else 1) * machine.call(2 * self.d, devices)
        return gradient + machine.call(self.popsize, devices) + machine.update

    def stage2(self, machine: Machine, devices: int) -> float:
        """Seconds of a step without the mask."""
        return machine.call(2 * self.pairs, devices) + machine.update

    def mask(self, machine: Machine, devices: int) -> float:
        """Seconds of a refresh of the mask, in float64."""
        return machine.double * machine.call(2 * self.d, devices)

    def whole(self, machine: Machine, devices: int) -> float:
        second = self.steps - self.change_point
        masks = ceil_div(second, self.interval)
        return (
            self.change_point * self.stage1(machine, devices)
            + second * self.stage2(machine, devices)
            + masks * self.mask(machine, devices)
        )


def run_of(dataset: str, pairs: int = 1) -> Run:
    """The settings of the dataset's YAML."""
    from datasets import DATASETS as KNOWN
    from trainers import TRAINERS
    from trainers.blackbox.objective import FLOAT64_BELOW

    config = load_config(["--config", f"configs/{dataset}.yaml", "--root_path", "."], TRAINERS, KNOWN)
    exact = config.zo_eps_cge < FLOAT64_BELOW
    sizes = config.intrinsic_dim, config.popsize, int(config.change_point), config.total_steps, config.prune_interval
    return Run(*sizes, exact, pairs)


def machine_of(measured: Mapping[str, Any], dataset: str) -> Machine:
    found = measured["datasets"][dataset]
    passes = {int(size): seconds for size, seconds in found["pass_seconds"].items()}
    return Machine(passes, found["points_per_pass"], found["double"], measured["update_seconds"], measured["hop_seconds"])


def model_table(measured: Mapping[str, Any]) -> Table:
    """Speed-up by number of devices, with its share of the ideal speed-up."""
    table = Table("Model", ["", "1 device, s", *(f"{devices} devices" for devices in DEVICES[1:])])
    for dataset in DATASETS:
        machine, run, wide = machine_of(measured, dataset), run_of(dataset), run_of(dataset, pairs=32)
        parts: list[tuple[str, Callable[[Machine, int], float]]] = [
            ("stage-1 step", run.stage1),
            ("stage-2 step, 2 queries", run.stage2),
            ("stage-2 step, 64 queries", wide.stage2),
            ("refresh of the mask", run.mask),
            ("whole run", run.whole),
        ]
        for title, seconds in parts:
            one = seconds(machine, 1)
            ups = [one / seconds(machine, devices) for devices in DEVICES[1:]]
            cells = [f"× {up:.1f} ({up / devices:.0%})" for up, devices in zip(ups, DEVICES[1:], strict=True)]
            table.rows.append([f"{dataset}, {title}", f"{one:,.3g}" if one < 1000 else f"{one:,.0f}", *cells])
    return table


def measured_table(measured: Mapping[str, Any]) -> Table:
    """Queries per second measured on ranks."""
    table = Table("Measured", ["queries per call", "1 process, 1 thread", "1 process, 2 threads", "2 processes, 1 thread each"])
    for queries, seconds in measured["ranks"].items():
        rates = [int(queries) / seconds[key] for key in ("1x1", "1x2", "2x1")]
        cells = [f"{rate:.1f} (× {rate / rates[0]:.2f})" for rate in rates]
        table.rows.append([queries, *cells])
    return table


def shorter(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds on ranks and of messages, each the shortest so far, since other processes can only add to it."""
    merged = dict(now)
    if "hop_seconds" in before and "hop_seconds" in now:
        merged["hop_seconds"] = min(before["hop_seconds"], now["hop_seconds"])
    if "ranks" in before and "ranks" in now:
        merged["ranks"] = {
            queries: {layout: min(seconds, before["ranks"][queries][layout]) for layout, seconds in cells.items()}
            for queries, cells in now["ranks"].items()
        }
    return merged


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.maintain.scale_model", __doc__)
    parser.add_argument("measured", type=user_path, help="JSON file of measurements")
    parser.add_argument(
        "--measure", nargs="*", metavar="PART", help="measure PARTs (passes, ranks, hop) into the file; default: all"
    )
    arguments = parser.parse_args(argv)
    if arguments.measure is not None:
        from tools.common.rank_costs import PARTS, measure

        found = json.loads(arguments.measured.read_text(encoding="utf-8")) if arguments.measured.is_file() else {}
        for part in arguments.measure or PARTS:
            found |= shorter(found, measure(part))
            arguments.measured.parent.mkdir(parents=True, exist_ok=True)
            arguments.measured.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    measured = json.loads(arguments.measured.read_text(encoding="utf-8"))
    print(measured_table(measured).grid())
    print()
    print(model_table(measured).grid())
    return 0


if __name__ == "__main__":
    sys.exit(main())
