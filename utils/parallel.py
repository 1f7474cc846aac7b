"""Work on many items by threads, in order and within bounds."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """function(item) for each item, in order, by a thread a core; at most `ahead` results are worked on or held.

    An exception comes up at its item's turn, and what then still waits is dropped.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(usable_cores()) as pool:
        pending = deque(pool.submit(function, item) for item in islice(waiting, ahead))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(waiting, 1))
                yield result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
