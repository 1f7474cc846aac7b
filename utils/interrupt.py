"""Being told to stop: a signal, or the end of the time allowed, becomes an exception that unwinds to main: exit status 3."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The run was told to stop, or its time is up; the same command goes on with it."""


class Deadline:
    """Whether the run should stop. `seconds`: the time that it may take from here on."""

    def __init__(self, seconds: float = math.inf):
        self.deadline = time.monotonic() + seconds
        self.signal = ""

    def check(self, ahead: float = 0.0) -> None:
        """Raises Interrupted where a signal came, or where `ahead` more seconds would pass the deadline.

        A signal raises where the program is, too; but some libraries swallow every exception, so it is remembered.
        """
        if self.signal:
            raise Interrupted(self.signal)
        if time.monotonic() + ahead > self.deadline:
            raise Interrupted("--max_seconds")


class StepTimer:
    """How long steps take, by how many queries they ask."""

    def __init__(self) -> None:
        self.longest: dict[int, float] = {}

    def add(self, queries: int, seconds: float) -> None:
        self.longest[queries] = max(seconds, self.longest.get(queries, 0.0))

    def ahead(self, queries: int) -> float:
        """Seconds for a step of so many: the longest that one took; for the first, by the slowest query of any step."""
        if queries in self.longest:
            return self.longest[queries]
        return queries * max((seconds / asked for asked, seconds in self.longest.items() if asked), default=0.0)


@contextlib.contextmanager
def interruptible(seconds: float = math.inf) -> Iterator[Deadline]:
    """The first signal raises Interrupted where the program is; those that come while it tidies up are ignored.

    Signals that are ignored already stay so: SIGHUP below nohup, SIGINT of a shell's background jobs.
    """
    stop = Deadline(seconds)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    caught = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]

    def handle(number: int, frame: object) -> None:
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
