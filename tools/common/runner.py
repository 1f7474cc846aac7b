"""Runs jobs side by side, each in its own process, one at a time on each slot of a device."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from tools.common.devices import check_datasets, check_devices
from tools.common.logs import last_line, note_failure
from tools.common.names import row_title
from tools.common.plan import duration
from tools.common.runs import Job, read_run
from tools.common.samples import sample, show
from tools.common.tables import Table
from utils.interrupt import SIGNALS

POLL_SECONDS = 0.2
# How often the runner checks a run of another process.
ELSEWHERE_SECONDS = 2.0
# The exit status of what the same command resumes.
INTERRUPTED = 3


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
        return INTERRUPTED if self.interrupted or self.not_begun else 0


class Pace:
    """Estimates the time left from the runs that have finished, each setting by its own mean where one is known."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, job: Job, seconds: float) -> None:
        self._seconds[self._kind(job)].append(seconds)

    def left(self, jobs: Sequence[Job], processes: int) -> float | None:
        """Seconds until `jobs` are done, None before the first run has finished."""
        every = [seconds for group in self._seconds.values() for seconds in group]
        if not every:
            return None
        return sum(self._mean(self._seconds.get(self._kind(job)) or every) for job in jobs) / processes

    @staticmethod
    def _kind(job: Job) -> tuple[str, str]:
        return job.config.dataset, job.config.prompt_trainer

    @staticmethod
    def _mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)


class Runner:
    """Runs jobs, one at a time in each of `slots` (a device each; "": the run's own choice), each in its own process.

    A job that another process is running is left to it; when nothing else remains, the runner waits for it, and takes it over
    if that process ends without finishing it.
    """

    def __init__(self, slots: Sequence[str], environment: Mapping[str, str]):
        self.slots = slots
        self.environment = dict(environment)
        self.outcome = Outcome()
        self._pace = Pace()
        self._stopped = threading.Event()
        # a signal handler may call `stop` while the main thread is in it
        self._lock = threading.RLock()
        self._workers: list[threading.Thread] = []
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._waiting: list[Job] = []
        self._elsewhere: list[Job] = []
        self._total = 0

    def run(self, jobs: Sequence[Job]) -> Outcome:
        """Runs what is not finished. An interruption of this process is passed on to the runs, which keep their state."""
        self._total = len(jobs)
        for job in jobs:
            (self.outcome.finished if job.state == "finished" else self._waiting).append(job)
        self._workers = [threading.Thread(target=self._work, args=(slot,)) for slot in self.slots]
        # A handler that raised would leave Thread.join believing that the thread has ended.
        before = {number: signal.signal(number, lambda *_: self.stop()) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for worker in self._workers:
                worker.start()
            self.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self.outcome.not_begun += [*self._waiting, *self._elsewhere]
        return self.outcome

    def wait(self) -> None:
        """Returns when no run is in progress and none will be started."""
        for worker in self._workers:
            while worker.is_alive():
                worker.join(POLL_SECONDS)

    def stop(self) -> None:
        """Starts no more runs, and asks those in progress to checkpoint and end."""
        self._stopped.set()
        with self._lock:
            for process in self._processes:
                process.terminate()

    def _work(self, device: str) -> None:
        while not self._stopped.is_set():
            job = self._next()
            if job is None:
                return
            begun = time.monotonic()
            status, said = self._call(job, device)
            seconds = time.monotonic() - begun
            with self._lock:
                self._record(job, status, said, seconds)

    def _next(self) -> Job | None:
        """The next job for this worker: a waiting one, or one that another process has given up. None when all are done."""
        while not self._stopped.is_set():
            with self._lock:
                if self._waiting:
                    job = self._waiting.pop(0)
                    if not self._is_elsewhere(job):
                        return job
                    self._elsewhere.append(job)
                    print(f"{self._count()} {job.path}: running elsewhere", flush=True)
                    continue
                for job in list(self._elsewhere):
                    if job.state == "finished":
                        self._elsewhere.remove(job)
                        self._record(job, 0, "", None)
                    elif not job.is_running:
                        self._elsewhere.remove(job)
                        return job
                if not self._elsewhere:
                    return None
            self._stopped.wait(ELSEWHERE_SECONDS)
        return None

    @staticmethod
    def _is_elsewhere(job: Job) -> bool:
        return job.state != "finished" and job.is_running

    def _record(self, job: Job, status: int, said: str, seconds: float | None) -> None:
        """Files a job by its exit status and prints a line about it; the caller holds the lock."""
        if status == 1 and (job.state == "finished" or job.is_running):
            # Another process took the run between our check and our start.
            self._elsewhere.append(job)
            return
        if status == 0:
            self.outcome.finished.append(job)
            if seconds is not None:
                self._pace.add(job, seconds)
            words = ", ".join(
                ["finished", *self._accuracy(job), *([duration(seconds)] if seconds is not None else ["elsewhere"])]
            )
        elif status == INTERRUPTED:
            self.outcome.interrupted.append(job)
            words = "interrupted"
        else:
            self.outcome.failed.append((job, said or f"exit status {status}"))
            words = f"FAILED (exit status {status}): {said}"
        print(f"{self._count()} {job.path}: {words}{self._time_left()}", flush=True)

    def _count(self) -> str:
        done = len(self.outcome.finished) + len(self.outcome.interrupted) + len(self.outcome.failed)
        return f"[{done}/{self._total}]"

    def _time_left(self) -> str:
        left = self._pace.left(self._waiting, len(self.slots)) if self._waiting else None
        return f", {duration(left)} left" if left is not None else ""

    @staticmethod
    def _accuracy(job: Job) -> list[str]:
        accuracy = read_run(job.path).result.get("test_accuracy")
        return [] if accuracy is None else [f"{accuracy:.1f}%"]

    def _call(self, job: Job, device: str) -> tuple[int, str]:
        """Exit status of a run and its last line; all that it prints is in the job's log."""
        command = [*job.command, *kept_threads(job), *(["--device", "cpu"] if device == "cpu" else [])]
        environment = self.environment | visible(device, self.environment)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("wb") as log:
            with self._lock:
                if self._stopped.is_set():
                    return INTERRUPTED, ""
                # Its own session, so that Ctrl-C reaches it once, through `stop`.
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=environment,
                )
                self._processes.add(process)
            status = process.wait()
        with self._lock:
            self._processes.discard(process)
        said = last_line(job.log)
        if -status in SIGNALS:
            # such a signal came before the run could listen to it, or again while the run ended
            status = INTERRUPTED
        if status not in (0, INTERRUPTED):
            note_failure(job.log, status)
        return status, said


def visible(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Shows a run only the GPU `device` (cuda:N), so that another may resume it: a run's device is one of its settings."""
    if not device.startswith("cuda:"):
        return {}
    number = int(device.removeprefix("cuda:"))
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": shown.split(",")[number] if shown else str(number)}


def kept_threads(job: Job) -> list[str]:
    """The number of threads that an interrupted run started with, as a flag: with another it would be a different run."""
    path = job.path / "config.yaml"
    if job.state != "interrupted":
        return []
    try:
        threads = yaml.safe_load(path.read_text(encoding="utf-8"))["threads"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        # The run itself reports what is wrong with its folder.
        return []
    return ["--threads", str(threads)]


def run_jobs(jobs: Sequence[Job], slots: Sequence[str]) -> int:
    """Runs what is not finished, prints what became of it, and returns the exit status.

    Raises UserError for what would fail every run: a missing device, or no dataset that exists.
    """
    left = [job for job in jobs if job.state != "finished"]
    check_devices(slots)
    check_datasets(job.config for job in left)
    environment = dict(os.environ)
    if len(slots) > 1 and all(slot in ("", "cpu") for slot in slots):
        # Processes that each use every core would slow one another down.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(slots))))
    if left:
        on = f"{len(slots)} process{'es' if len(slots) > 1 else ''}"
        print(f"{len(jobs)} runs: {len(jobs) - len(left)} finished, {len(left)} to run on {on}", flush=True)
    outcome = Runner(slots, environment).run(jobs)
    if outcome.finished:
        print(f"\n{results_table(outcome).plain()}\n")
    parts = {
        "finished": len(outcome.finished),
        "interrupted": len(outcome.interrupted),
        "not started": len(outcome.not_begun),
        "failed": len(outcome.failed),
    }
    print(", ".join(f"{count} {word}" for word, count in parts.items() if count or word == "finished"))
    for job, said in outcome.failed:
        print(f"failed: python {shlex.join(job.command[1:])}\n  {said}\n  log: {job.log}", file=sys.stderr)
    return outcome.status


def results_table(outcome: Outcome) -> Table:
    """Mean test accuracy of the finished runs, a row for each setting."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for job in outcome.finished:
        config, accuracy = job.config, read_run(job.path).result.get("test_accuracy")
        key = config.dataset, row_title(config.prompt_trainer, config.run_name), config.backbone, str(config.shots)
        groups.setdefault(key, []).extend([] if accuracy is None else [accuracy])
    rows: list[Sequence[str]] = [
        [*key, str(len(values)), show(sample(values)) if values else "–"] for key, values in groups.items()
    ]
    return Table("Results", ["dataset", "method", "backbone", "shots", "runs", "test accuracy (%), ± 95% t-interval"], rows)
