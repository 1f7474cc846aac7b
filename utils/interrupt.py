"""Interruptions: a signal or the time limit becomes an exception that unwinds to main, which exits with status 3."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

# SLURM announces a time limit by SIGUSR1 or SIGUSR2, as its --signal says; Windows has neither of them, nor SIGHUP
NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """A signal came, or the time is up; the same command resumes the run. `step`: the last complete step, if any."""

    step: int | None = None


class Deadline:
    """When a run must stop. `seconds`: how long it may take from here on."""

    def __init__(self, seconds: float = math.inf):
        self.deadline = time.monotonic() + seconds
        self.signal = ""

    def check(self, ahead: float = 0.0) -> None:
        """Raises Interrupted after a signal, or where `ahead` more seconds would pass the deadline.

        The signal handler raises as well, but some libraries swallow every exception, so the signal is remembered.
        """
        if self.signal:
            raise Interrupted(self.signal)
        if time.monotonic() + ahead > self.deadline:
            raise Interrupted("--max_seconds")


class StepTimer:
    """How long steps take, by their number of queries."""

    def __init__(self) -> None:
        self.longest: dict[int, float] = {}

    def add(self, queries: int, seconds: float) -> None:
        self.longest[queries] = max(seconds, self.longest.get(queries, 0.0))

    def ahead(self, queries: int) -> float:
        """Seconds for a step of `queries`: the longest such step so far; before the first, by the slowest query of any step."""
        if queries in self.longest:
            return self.longest[queries]
        return queries * max((seconds / count for count, seconds in self.longest.items() if count), default=0.0)


@contextlib.contextmanager
def interruptible(seconds: float = math.inf) -> Iterator[Deadline]:
    """The first signal raises Interrupted; later ones, which come while the run cleans up, are ignored.

    Signals that are already ignored stay so: SIGHUP under nohup, SIGINT in a shell's background jobs.
    """
    stop = Deadline(seconds)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    caught = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]

    def handle(number: int, frame: FrameType | None) -> None:
        for other in caught:
            signal.signal(other, signal.SIG_IGN)
        stop.signal = signal.Signals(number).name
        raise Interrupted(stop.signal)

    try:
        for number in caught:
            signal.signal(number, handle)
        yield stop
    finally:
        for number in caught:
            signal.signal(number, before[number])
