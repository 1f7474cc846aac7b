"""Applies a function to many items in threads, in order and with bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """function(item) for each item, in order, with a thread per core; at most `ahead` results are in progress or held.

    An exception is raised when its item's turn comes, and waiting items are dropped. Where the system starts no more threads,
    the remaining items are processed in this thread.
    """
    waiting, limited = iter(items), False
    with ThreadPoolExecutor(usable_cores()) as pool:

        def start(item: Item) -> Callable[[], Result]:
            nonlocal limited
            if not limited:
                try:
                    return pool.submit(function, item).result
                except RuntimeError:
                    # containers and accounts may limit the number of threads
                    limited = True
            return partial(function, item)

        pending = deque(start(item) for item in islice(waiting, ahead))
        try:
            while pending:
                result = pending.popleft()()
                pending.extend(start(item) for item in islice(waiting, 1))
                yield result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
