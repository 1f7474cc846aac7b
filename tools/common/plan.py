"""The plan of a sweep: the state, queries and estimated time of each run."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

from tools.common.costs import Benchmark, Cost, cost
from tools.common.runs import Job


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
