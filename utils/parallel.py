"""Applies a function to many items in threads, in order and with bounded memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def startable_threads(wanted: int) -> int:
    """How many of `wanted` threads the system starts: containers and accounts limit them. Zero means: work without."""
    release, started = threading.Event(), []
    for _ in range(wanted):
        thread = threading.Thread(target=release.wait)
        try:
            thread.start()
        except RuntimeError:
            break
        started.append(thread)
    release.set()
    for thread in started:
        thread.join()
    return len(started)


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """function(item) for each item, in order, with a thread per core; at most `ahead` results are in progress or held.

    An exception is raised at its item's turn, and items that still wait are dropped.
    """
    waiting = iter(items)
    workers = startable_threads(usable_cores())
    if not workers:
        yield from map(function, waiting)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending = deque(pool.submit(function, item) for item in islice(waiting, ahead))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(waiting, 1))
                yield result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
