"""Makes the paper's tables and figures, starting the runs that are missing.

    python -m tools.reproduce table1 --suite mini --processes 2
    python -m tools.reproduce fig3 fig4 claims --suite mini --output reproduced/mini
    python -m tools.reproduce table6 --root_path DATA --devices cuda:0 cuda:1 --dry-run
    python -m tools.reproduce shots --suite mini --methods zero-shot bbt sharpzo --datasets digits
    python -m tools.reproduce table1 --suite mini --no-run                          # from finished runs only
    python -m tools.reproduce table1 --suite mini --from docs/mini/runs.csv         # from a CSV of tools.summarize

Artifacts: table1 to table7, fig1 to fig4; beyond the paper: baselines (all methods at equal and at their own numbers of
queries), shots (accuracy by training images per class), queries and time (accuracy against them), base2new, cross; fidelity (the
effect of each deviation of the released code), claims (which of the paper's claims hold). The icons suite alone has equal (every
method at equal budgets), parts (SharpZO without one of them), transfer (equal's prompts under shift, on other sets),
dimensions (equal at other d) and curves.
Exit status: 0 made, 1 runs failed, 2 invalid arguments or data, 3 interrupted (repeat the command to resume), or with --launcher
slurm submitted (repeat the command when the runs are finished).
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tools.common.cli import command, make_parser, user_path, user_path_text
from tools.common.devices import add_running_options, devices_of
from tools.common.launcher import add_launcher_options, check_launcher_options, launch, only_printed
from tools.common.names import canonical
from tools.common.plotting import require_matplotlib
from tools.common.runner import INTERRUPTED
from tools.common.runs import Job
from tools.reproduce.artifacts import PICTURES, measurements, write
from tools.reproduce.plans import PLANS
from tools.reproduce.results import Results, finished_run, recorded_runs
from tools.reproduce.suites import SUITES, JobFactory, Suite
from utils.config import FIELDS
from utils.errors import RunError, UserError

PLAN_OF = {"queries": "fig1", "time": "fig1", "curves": "equal"}
# artifacts that can be made from a part of the suite
PARTS = {
    "methods": (
        *("table1", "table3", "table5", "fig1", "queries", "time", "shots", "base2new", "cross"),
        *("equal", "transfer", "dimensions", "curves"),
    ),
    "datasets": ("table1", "table3", "table4", "shots", "base2new", "equal", "parts", "curves"),
}
DRAWN = (*PICTURES, "baselines")
ARTIFACTS = (*PLANS, *PLAN_OF)


def reproduce(name: str, arguments: argparse.Namespace, maker: JobFactory) -> int:
    """Plans, runs and makes one artifact; the exit status of its runs."""
    entries = list(PLANS[PLAN_OF.get(name, name)](maker))
    jobs = unique(entry.job for entry in entries)
    devices_of(arguments)
    if not arguments.print_commands:
        print(f"{name}, {maker.suite.name} suite:")
        for method in [method for method in maker.suite.methods if method not in maker.methods()]:
            print(f"{method}: unknown trainer; left out")
    printed = only_printed(jobs, arguments)
    if printed is not None:
        if arguments.dry_run and name == "table4":
            for measurement in measurements(maker, arguments).values():
                state = "finished" if measurement.output.is_file() else "missing"
                print(f"memory, {state}: python {shlex.join(measurement.command[1:])}")
        return printed
    status = 0
    recorded = recorded_runs(arguments.recorded) if arguments.recorded else None
    for phase in sorted({entry.phase for entry in entries}) if arguments.run and recorded is None else ():
        status = max(status, launch(unique(entry.job for entry in entries if entry.phase == phase), arguments))
        if status == INTERRUPTED:
            return status
    found = Results.read(entries, recorded)
    if not found.cells and status:
        return status
    if not found.cells:
        where = arguments.recorded or maker.output_dir
        raise UserError(f"{name}: none of its {len(jobs)} runs is finished in {where}; run it without --no-run")
    arguments.output.mkdir(parents=True, exist_ok=True)
    lacking = len(jobs) - sum(finished_run(job, recorded) is not None for job in jobs)
    part = [f"Made without {lacking} of {len(jobs)} runs; --print-commands lists them."] if lacking else []
    part += [f"Restricted to {flag}." for flag in part_of(arguments)]
    for path in write(name, found, maker, entries, arguments, part):
        print(path)
    return status


def part_of(arguments: argparse.Namespace) -> list[str]:
    """The flags that select a part of the suite."""
    chosen = {axis: getattr(arguments, axis) for axis in ("seeds", "methods", "datasets")}
    return [f"--{axis} {' '.join(map(str, values))}" for axis, values in chosen.items() if values]


def unique(jobs: Iterable[Job]) -> list[Job]:
    """Each run folder once."""
    return list({job.path: job for job in jobs}.values())


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("tools.reproduce", __doc__)
    parser.add_argument("artifacts", nargs="+", metavar="ARTIFACT", help=", ".join(ARTIFACTS))
    parser.add_argument("--suite", choices=list(SUITES), default="paper")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="default: the suite's")
    parser.add_argument("--methods", nargs="+", default=[], help="only these of the suite's methods")
    parser.add_argument("--datasets", nargs="+", default=[], help="only these of the suite's datasets")
    parser.add_argument("--output", type=user_path, help="folder of the tables and figures (default: reproduced/SUITE)")
    parser.add_argument("--output_dir", type=user_path_text, default=FIELDS["output_dir"].default, help="root of the run folders")
    parser.add_argument("--format", choices=("markdown", "latex"), default="markdown")
    parser.add_argument("--run", action=argparse.BooleanOptionalAction, default=True, help="start missing runs")
    parser.add_argument(
        "--from", dest="recorded", type=user_path, metavar="CSV", help="use the runs of this CSV of tools.summarize; run nothing"
    )
    add_running_options(parser)
    add_launcher_options(parser)
    arguments = parser.parse_args(argv)
    check_launcher_options(arguments)
    for name in arguments.artifacts:
        if name not in ARTIFACTS:
            raise UserError(f"unknown artifact {name!r}; choose from {', '.join(ARTIFACTS)}")
    if len(set(arguments.seeds)) < len(arguments.seeds):
        raise UserError(f"--seeds: {' '.join(map(str, arguments.seeds))}: a seed is repeated; give each once")
    if not (arguments.dry_run or arguments.status) and any(name in DRAWN for name in arguments.artifacts):
        require_matplotlib()
    arguments.output = arguments.output or Path("reproduced") / arguments.suite
    return arguments


def suite_of(arguments: argparse.Namespace) -> Suite:
    """The suite, or the part of it that was selected. Raises UserError for what it does not contain."""
    suite = SUITES[arguments.suite]
    for axis in ("methods", "datasets"):
        chosen, there = [canonical(name) for name in getattr(arguments, axis)], getattr(suite, axis)
        for name in chosen:
            if name not in there:
                raise UserError(f"--{axis}: the {suite.name} suite has no {name!r}; choose from {', '.join(there)}")
        for name in arguments.artifacts:
            if chosen and name not in PARTS[axis]:
                raise UserError(f"--{axis}: {name} needs the whole suite; parts are possible for {', '.join(PARTS[axis])}")
        if chosen:
            part: Any = {axis: tuple(name for name in there if name in chosen)}
            suite = dataclasses.replace(suite, **part)
    return dataclasses.replace(suite, timed=tuple(name for name in suite.timed if name in suite.datasets))


@command
def main(argv: list[str]) -> int:
    arguments = parse(argv)
    maker = JobFactory(suite_of(arguments), arguments.output_dir, arguments.root_path, tuple(arguments.seeds))
    status = 0
    for name in arguments.artifacts:
        status = max(status, attempt(name, arguments, maker))
        if status == INTERRUPTED and arguments.launcher == "local":
            break
    return status


def attempt(name: str, arguments: argparse.Namespace, maker: JobFactory) -> int:
    """The exit status of one artifact; an error is printed and does not stop the others."""
    try:
        return reproduce(name, arguments, maker)
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


if __name__ == "__main__":
    sys.exit(main())
