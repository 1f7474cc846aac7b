"""Where the runs of a sweep are started, here or on a cluster, and what has become of them."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Sequence

from tools.common import slurm
from tools.common.devices import devices_of
from tools.common.logs import failure
from tools.common.measured import read_times
from tools.common.plan import print_commands, print_plan
from tools.common.runner import INTERRUPTED, run_jobs
from tools.common.runs import Job
from utils.errors import UserError


def add_launcher_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--launcher", choices=("local", "slurm"), default="local", help="run here, or submit a SLURM array (default: local)"
    )
    parser.add_argument(
        "--slurm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="sbatch options: partition=gpu time=240 (minutes) gpus_per_node=1 cpus_per_task=8 array_parallelism=32 …",
    )
    parser.add_argument("--runs_per_task", type=int, default=1, help="runs of one array task, in turn (default: 1)")
    parser.add_argument("--status", action="store_true", help="print which runs are finished, running and failed; run nothing")


def check_launcher_options(arguments: argparse.Namespace) -> None:
    """Raises UserError for options that contradict each other. Replaces `slurm` by the settings that it stands for."""
    if arguments.runs_per_task < 1:
        raise UserError(f"--runs_per_task: {arguments.runs_per_task} is out of range; it must be at least 1")
    for flag, given in (("--slurm", arguments.slurm), ("--runs_per_task", arguments.runs_per_task > 1)):
        if given and arguments.launcher != "slurm":
            raise UserError(f"{flag}: is for SLURM; add --launcher slurm")
    arguments.slurm = slurm.parse_settings(arguments.slurm)


def launch(jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    """Runs or submits what is not finished; the exit status."""
    devices = devices_of(arguments)
    if arguments.launcher == "slurm":
        return slurm.submit(jobs, arguments.slurm, devices, arguments.runs_per_task)
    return run_jobs(jobs, devices)


def only_printed(jobs: Sequence[Job], arguments: argparse.Namespace) -> int | None:
    """The exit status where the arguments only ask about the runs (their plan, their commands or their status), else None."""
    if arguments.status:
        return print_status(jobs)
    if arguments.print_commands:
        print_commands(jobs)
        return 0
    if arguments.dry_run:
        benchmark = read_times(arguments.benchmark) if arguments.benchmark else None
        print_plan(jobs, benchmark, devices_of(arguments))
        if arguments.launcher == "slurm":
            print(f"\n{slurm.script(jobs, arguments.slurm, arguments.runs_per_task)}", end="")
        return 0
    return None


def print_status(jobs: Sequence[Job]) -> int:
    """Counts of the runs by state, and the last line of each failed one. 0: all finished, 1: some failed, else INTERRUPTED."""
    in_queue = slurm.queued(jobs)
    failures: list[tuple[Job, str]] = []
    states: Counter[str] = Counter()
    for job in jobs:
        state = job.state
        said = failure(job.log) if state in ("missing", "interrupted") else None
        if state in ("missing", "interrupted") and job.is_running:
            state = "running"
        elif job.path in in_queue and state != "finished":
            state = "queued"
        elif said is not None:
            state = "failed"
            failures.append((job, said))
        states["not started" if state == "missing" else state] += 1
        if state in ("running", "queued"):
            print(f"{state}: {job.path}" + (f" (task {in_queue[job.path]})" if job.path in in_queue else ""))
    for job, said in failures:
        print(f"failed: {shlex.quote(str(job.path))}\n  {said}\n  log: {job.log}")
    order = ("finished", "running", "queued", "interrupted", "not started", "other settings", "failed")
    print(
        f"{len(jobs)} runs: " + ", ".join(f"{states[state]} {state}" for state in order if states[state] or state == "finished")
    )
    if states["other settings"]:
        print("warning: other settings: the folder holds a different run; use another --output_dir", file=sys.stderr)
    if failures:
        return 1
    return 0 if states["finished"] == len(jobs) else INTERRUPTED
