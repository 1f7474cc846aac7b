"""Runs a grid of main_sharpzo.py commands: datasets × methods × backbones × shots × seeds, on several devices at once.

    python -m tools.sweep --datasets eurosat dtd --root_path DATA --seeds 1 2 3 --devices cuda:0 cuda:1
    python -m tools.sweep --datasets digits --methods zo-pruned bbt --processes 2 --dry-run
    python -m tools.sweep --datasets digits --grid sigma=0.2,0.4 --grid zo_lr=0.03,0.1 -- --total_steps 1000

What is finished is skipped, what was interrupted goes on, and a run that fails does not stop the rest: it is named at the end.
Exit status: 0 all finished, 1 some runs failed, 2 something given cannot work, 3 interrupted: the same command goes on.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

from tools.common.costs import Benchmark
from tools.common.devices import add_running_options, devices_of
from tools.common.plan import print_plan
from tools.common.runner import run_jobs
from tools.common.runs import Job, flags_of, root_of
from trainers import TRAINERS
from utils.config import FIELDS, Parser
from utils.errors import UserError
from utils.identity import identity

METHODS = ("zero-shot", "zo-pruned")


def make_jobs(arguments: argparse.Namespace) -> list[Job]:
    """The grid's jobs, each once.

    What trains nothing does not depend on shots and seed: it is filed under the first seed, and under the most shots, beside
    which the paper's figures stand.
    """
    jobs: dict[Path, Job] = {}
    axes = arguments.shots, arguments.seeds, arguments.datasets, arguments.methods, arguments.backbones, grid(arguments.grid)
    for shots, seed, dataset, method, backbone, point in itertools.product(*axes):
        if method not in TRAINERS:
            raise UserError(f"--methods: unknown trainer {method!r}; there are {', '.join(TRAINERS)}")
        if not TRAINERS[method].build:
            shots, seed = max(arguments.shots), arguments.seeds[0]
        settings = {
            "config": dataset if dataset.endswith(".yaml") else f"configs/{dataset}.yaml",
            "root_path": root_of(dataset, arguments.root_path),
            "output_dir": arguments.output_dir,
            "prompt_trainer": method,
            "backbone": backbone,
            "shots": shots,
            "seed": seed,
            "run_name": "-".join(f"{key}{value}" for key, value in point.items()) or None,
        }
        job = Job((*flags_of(settings | point), *arguments.more))
        refuse_another(jobs.setdefault(job.path, job), job)
    return list(jobs.values())


def refuse_another(first: Job, job: Job) -> None:
    """Raises UserError where two jobs of one run folder are not the same run, naming the settings that differ."""
    ours, theirs = (identity(one.config.as_dict()) for one in (first, job))
    differing = [key for key in ours if ours[key] != theirs[key]]
    if differing:
        raise UserError(
            f"{job.path}: two runs would share this folder and differ in {', '.join(differing)}; give them a --run_name"
        )


def grid(axes: Iterable[str]) -> list[dict[str, str]]:
    """All combinations of "KEY=VALUE,VALUE" axes; one empty one where there are no axes."""
    values: dict[str, list[str]] = {}
    for axis in axes:
        key, equals, choices = axis.partition("=")
        if key not in FIELDS or not equals:
            raise UserError(f"--grid: {axis!r}: expected KEY=VALUE,VALUE with a setting's name as KEY")
        values[key] = choices.split(",")
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def parse(argv: list[str]) -> argparse.Namespace:
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = Parser(prog="python -m tools.sweep", description=__doc__, **style)
    parser.add_argument("--datasets", nargs="+", required=True, help="names of configs/NAME.yaml, or YAML files")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help=f"trainers: {', '.join(TRAINERS)}")
    parser.add_argument("--backbones", nargs="+", default=[None], help="default: the YAML's")
    parser.add_argument("--shots", nargs="+", type=int, default=[16])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--grid", action="append", default=[], metavar="KEY=V,V", help="settings to vary, a run name for each point"
    )
    parser.add_argument("--output_dir", default=FIELDS["output_dir"].default)
    add_running_options(parser)
    # argparse would let "--" end a list of values and give what follows to the next one
    at = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:at])
    arguments.more = argv[at + 1 :]
    return arguments


def main(argv: list[str] | None = None) -> int:
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        benchmark = Benchmark.read(arguments.benchmark) if arguments.benchmark else None
        devices = devices_of(arguments)
        jobs = make_jobs(arguments)
        if arguments.dry_run:
            print_plan(jobs, benchmark, len(devices))
            return 0
        return run_jobs(jobs, devices)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
