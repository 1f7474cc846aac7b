"""Runs a grid of main_sharpzo.py commands: datasets × methods × backbones × shots × seeds, on several devices at once.

    python -m tools.sweep --datasets eurosat dtd --root_path DATA --seeds 1 2 3 --devices cuda:0 cuda:1
    python -m tools.sweep --datasets digits --methods sharpzo bbt --processes 2 --dry-run
    python -m tools.sweep --datasets digits --grid sigma=0.2,0.4 --grid zo_lr=0.03,0.1 -- --total_steps 1000
    python -m tools.sweep --datasets eurosat dtd --root_path DATA --launcher slurm --slurm partition=gpu gpus_per_node=1 time=60
    python -m tools.sweep --datasets eurosat dtd --root_path DATA --status

Finished runs are skipped, interrupted ones are resumed, and a failing run does not stop the others. Several sweeps may share one
--output_dir: each leaves the runs of the others alone and waits for them at the end. Each run's output is in OUTPUT_DIR/logs.
Exit status: 0 all finished, 1 some runs failed, 2 invalid arguments or data, 3 interrupted (repeat the command to resume), or
with --launcher slurm submitted.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

from tools.common.cli import command, make_parser, user_path_text
from tools.common.devices import add_running_options, devices_of
from tools.common.launcher import add_launcher_options, check_launcher_options, launch, only_printed
from tools.common.names import OURS, canonical
from tools.common.runs import Job, flags_of, root_of
from trainers import TRAINERS
from utils.config import FIELDS
from utils.errors import UserError
from utils.identity import identity

METHODS = ("zero-shot", OURS)


def make_jobs(arguments: argparse.Namespace) -> list[Job]:
    """The grid's jobs, each once.

    Methods that train nothing depend on neither shots nor seed: they run once, under the first seed and the most shots, which
    is where the paper's numbers are.
    """
    jobs: dict[Path, Job] = {}
    axes = arguments.shots, arguments.seeds, arguments.datasets, arguments.methods, arguments.backbones, grid(arguments.grid)
    for shots, seed, dataset, method, backbone, point in itertools.product(*axes):
        if method not in TRAINERS:
            raise UserError(f"--methods: unknown trainer {method!r}; choose from {', '.join(TRAINERS)}")
        if not TRAINERS[method].build:
            shots, seed = max(arguments.shots), arguments.seeds[0]
        settings = {
            "config": dataset if dataset.endswith(".yaml") else f"configs/{dataset}.yaml",
            "root_path": root_of(dataset, arguments.root_path),
            "output_dir": arguments.output_dir,
            "prompt_trainer": canonical(method),
            "backbone": backbone,
            "shots": shots,
            "seed": seed,
            "run_name": "-".join(f"{key}{value}" for key, value in point.items()) or None,
        }
        job = Job((*flags_of(settings | point), *arguments.more))
        refuse_another(jobs.setdefault(job.path, job), job)
    return list(jobs.values())


def refuse_another(first: Job, job: Job) -> None:
    """Raises UserError if two different runs share a folder, naming the settings that differ."""
    ours, theirs = (identity(one.config.as_dict()) for one in (first, job))
    differing = [key for key in ours if ours[key] != theirs[key]]
    if differing:
        raise UserError(f"{job.path}: two runs would share this folder but differ in {', '.join(differing)}; use --run_name")


def grid(axes: Iterable[str]) -> list[dict[str, str]]:
    """All combinations of "KEY=VALUE,VALUE" axes; one empty combination without axes."""
    values: dict[str, list[str]] = {}
    for axis in axes:
        key, equals, choices = axis.partition("=")
        if key not in FIELDS or not equals:
            raise UserError(f"--grid: {axis!r}: expected KEY=VALUE,VALUE with the name of a setting as KEY")
        values[key] = choices.split(",")
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("tools.sweep", __doc__)
    parser.add_argument("--datasets", nargs="+", required=True, help="names of configs/NAME.yaml, or YAML files")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help=f"trainers: {', '.join(TRAINERS)}")
    parser.add_argument("--backbones", nargs="+", default=[None], help="default: the YAML's")
    parser.add_argument("--shots", nargs="+", type=int, help="default: the YAML's, or 16")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="KEY=V,V", help="vary a setting; each point gets a --run_name"
    )
    parser.add_argument("--output_dir", type=user_path_text, default=FIELDS["output_dir"].default, help="root of the run folders")
    add_running_options(parser)
    add_launcher_options(parser)
    # argparse would end a list of values at "--" and give what follows to the next option.
    at = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:at])
    arguments.more = argv[at + 1 :]
    arguments.shots = arguments.shots or [None]
    return arguments


@command
def main(argv: list[str]) -> int:
    arguments = parse(argv)
    check_launcher_options(arguments)
    devices_of(arguments)
    jobs = make_jobs(arguments)
    printed = only_printed(jobs, arguments)
    return launch(jobs, arguments) if printed is None else printed


if __name__ == "__main__":
    sys.exit(main())
