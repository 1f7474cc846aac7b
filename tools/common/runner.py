"""Runs jobs side by side, each in its own process, one at a time per device."""

from __future__ import annotations

import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from tools.common.devices import check_datasets, check_devices
from tools.common.runs import Job

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
