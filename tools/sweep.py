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
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from datasets.roots import check_dataset
from tools.common.costs import Benchmark, Cost, cost
from tools.common.runs import Job, flags_of, root_of
from trainers import TRAINERS
from utils.config import FIELDS, Parser
from utils.errors import UserError
from utils.run import identity
from utils.settings import Config

METHODS = ("zero-shot", "zo-pruned")
POLL_SECONDS = 0.2


@dataclass
class Outcome:
    """Jobs by what became of them; a failed one with the last line it printed."""

    finished: list[Job] = field(default_factory=list)
    interrupted: list[Job] = field(default_factory=list)
    failed: list[tuple[Job, str]] = field(default_factory=list)
    not_begun: list[Job] = field(default_factory=list)

    @property
    def status(self) -> int:
        if self.failed:
            return 1
        return 3 if self.interrupted or self.not_begun else 0


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


def print_plan(jobs: Sequence[Job], benchmark: Benchmark | None, processes: int) -> None:
    """One line a run: its state, queries and estimated time, then its command; and the totals of what is left."""
    queries, seconds, unknown = 0, 0.0, 0
    for job in jobs:
        price, estimate = cost(job.config), benchmark.seconds(job.config) if benchmark else None
        left = job.state not in ("finished", "other settings")
        queries += price.queries if price and left else 0
        seconds += estimate or 0.0 if left else 0.0
        unknown += bool(left and (estimate is None if benchmark else price is None))
        print(f"{job.state:14} {queries_text(price):>10} queries  {duration(estimate):>8}  python {shlex.join(job.command[1:])}")
    states = Counter(job.state for job in jobs)
    print(f"{len(jobs)} runs: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    least = "at least " if unknown else ""
    time = f", {least}{duration(seconds / processes)} on {processes} processes" if benchmark else ""
    print(f"left: {queries} queries{time}")
    if states["other settings"]:
        print("other settings: a run that differs is in the folder, and these will be refused; give another --output_dir")
    if unknown:
        print(f"of {unknown} of these runs the {'benchmark' if benchmark else 'plan'} says nothing")


def queries_text(price: Cost | None) -> str:
    if price is None:
        return "?"
    return str(price.queries) if price.exact else f"≤ {price.queries}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


class Runner:
    """Runs jobs, one at a time on each of `devices` ("": the run's own choice), each in a process of its own."""

    def __init__(self, devices: Sequence[str], environment: Mapping[str, str]):
        self.devices = devices
        self.environment = dict(environment)
        self.outcome = Outcome()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen] = set()

    def run(self, jobs: Sequence[Job]) -> Outcome:
        """Runs what is not finished. An interruption of this process reaches the runs, which keep their state."""
        waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            if job.state == "finished":
                self.outcome.finished.append(job)
            else:
                waiting.put(job)
        workers = [threading.Thread(target=self._work, args=(device, waiting)) for device in self.devices]
        # no exception: one that meets Thread.join marks the thread as ended, which it is not
        before = {number: signal.signal(number, lambda *_: self.stop()) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                while worker.is_alive():
                    worker.join(POLL_SECONDS)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        while not waiting.empty():
            self.outcome.not_begun.append(waiting.get())
        return self.outcome

    def stop(self) -> None:
        """Begins no more runs, and tells those in progress to keep what they have and end."""
        self._stopped.set()
        with self._lock:
            for process in self._processes:
                process.terminate()

    def _work(self, device: str, waiting: queue.SimpleQueue[Job]) -> None:
        while not self._stopped.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            status, said = self._call([*job.command, *kept_threads(job)], device)
            with self._lock:
                if status == 0:
                    self.outcome.finished.append(job)
                elif status == 3:
                    self.outcome.interrupted.append(job)
                else:
                    self.outcome.failed.append((job, said or f"ended with status {status}"))
                words = {0: "finished", 3: "interrupted"}.get(status, f"FAILED ({status}): {said}")
                print(f"{job.path}: {words}", flush=True)

    def _call(self, command: Sequence[str], device: str) -> tuple[int, str]:
        """Exit status of a run, and the last line of what it said on standard error; its log.txt has the rest."""
        environment = self.environment | visible(device, self.environment)
        command = [*command, "--device", "cpu"] if device == "cpu" else command
        with self._lock:
            if self._stopped.is_set():
                return 3, ""
            # a session of its own, so that Ctrl-C reaches it once, from `stop`
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
                env=environment,
            )
            self._processes.add(process)
        _, errors = process.communicate()
        with self._lock:
            self._processes.discard(process)
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        return process.returncode, lines[-1] if lines else ""


def visible(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What shows a run the one card `device` (cuda:N), so that it may later go on with another: a run's device is a setting."""
    if not device.startswith("cuda:"):
        return {}
    number = int(device.removeprefix("cuda:"))
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": shown.split(",")[number] if shown else str(number)}


def kept_threads(job: Job) -> list[str]:
    """The number of threads that an interrupted run was begun with, as a flag: with another it would not be the same run."""
    path = job.path / "config.yaml"
    if job.state != "interrupted":
        return []
    try:
        threads = yaml.safe_load(path.read_text(encoding="utf-8"))["threads"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        # the run itself says what is wrong with its folder
        return []
    return ["--threads", str(threads)]


def run_jobs(jobs: Sequence[Job], devices: Sequence[str]) -> int:
    """Runs what is not finished, says what became of it, and gives the exit status.

    Raises UserError for what would fail every run: a device that is not there, or no dataset that is.
    """
    check_devices(devices)
    check_datasets(job.config for job in jobs if job.state != "finished")
    environment = dict(os.environ)
    if len(devices) > 1 and all(device in ("", "cpu") for device in devices):
        # processes side by side on a CPU, each with all threads, would stand in each other's way
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(devices))))
    outcome = Runner(devices, environment).run(jobs)
    parts = {
        "finished": len(outcome.finished),
        "interrupted": len(outcome.interrupted),
        "not begun": len(outcome.not_begun),
        "failed": len(outcome.failed),
    }
    print(", ".join(f"{count} {word}" for word, count in parts.items() if count or word == "finished"))
    for job, said in outcome.failed:
        print(f"failed: python {shlex.join(job.command[1:])}\n  {said}", file=sys.stderr)
    return outcome.status


def check_datasets(configs: Iterable[Config]) -> None:
    """Raises UserError where none of the runs can have its images: a wrong --root_path; a dataset that lacks fails its runs."""
    wrong = []
    for dataset, root, trains in dict.fromkeys((c.dataset, c.root_path, bool(TRAINERS[c.prompt_trainer].build)) for c in configs):
        try:
            check_dataset(dataset, root, trains)
        except UserError as error:
            wrong.append(error)
        else:
            return
    if wrong:
        raise wrong[0]


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """What the sweep and tools.reproduce share: where runs go, and on how many processes."""
    parser.add_argument("--root_path", help="folder that holds the datasets, in CoOp's layout")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--devices", nargs="+", help="one process on each: cuda:0 cuda:1 …, or cpu")
    where.add_argument("--processes", type=int, help="so many processes side by side on the CPU or the one GPU")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and run nothing")
    parser.add_argument("--benchmark", type=Path, help="JSON of tools.benchmark --output, to estimate times from")


def devices_of(arguments: argparse.Namespace) -> list[str]:
    """A device for each process, "" where the run chooses. Raises UserError for what is no device, or for no process."""
    if arguments.processes is not None and arguments.processes < 1:
        raise UserError(f"--processes: {arguments.processes}: it must be at least 1")
    for device in arguments.devices or ():
        if not re.fullmatch(r"cpu|cuda:\d+", device):
            raise UserError(f"--devices: {device!r} is no device; use cpu or cuda:N")
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    for device in arguments.devices or ():
        if device.startswith("cuda:") and shown != [""] and int(device.removeprefix("cuda:")) >= len(shown):
            raise UserError(f"--devices: {device}: CUDA_VISIBLE_DEVICES shows {len(shown)} cards")
    return arguments.devices or [""] * (arguments.processes or 1)


def check_devices(devices: Sequence[str]) -> None:
    """Raises UserError for a card that this machine does not have: its runs would choose the CPU."""
    wanted = [int(device.removeprefix("cuda:")) for device in devices if device.startswith("cuda:")]
    if wanted:
        import torch

        if max(wanted) >= torch.cuda.device_count():
            raise UserError(f"--devices: cuda:{max(wanted)}: this machine has {torch.cuda.device_count()} CUDA devices")


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
