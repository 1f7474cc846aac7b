"""The plan of a sweep: how many runs of each dataset and method are finished or left, and what the rest costs."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Sequence

from tools.common.costs import Cost, Times, cost
from tools.common.devices import warnings_for
from tools.common.names import row_title
from tools.common.runs import Job
from tools.common.samples import grouped
from tools.common.tables import Table

DONE = ("finished", "other settings")


def print_plan(jobs: Sequence[Job], benchmark: Times | None, devices: Sequence[str]) -> None:
    """A table by dataset × method, totals, and on stderr what would fail on this machine."""
    print(plan_table(jobs, benchmark).plain())
    states = Counter(job.state for job in jobs)
    print(f"\n{grouped(len(jobs))} runs: " + ", ".join(f"{grouped(count)} {state}" for state, count in sorted(states.items())))
    left = [job for job in jobs if job.state not in DONE]
    prices = [cost(job.config) for job in left]
    total = grouped(sum(price.queries for price in prices if price))
    at_least = "at least " if None in prices else ""
    print(f"left: {at_least}{total} queries{time_left(left, benchmark, len(devices))}")
    if states["other settings"]:
        print("other settings: the folder holds a different run, so these would be refused; use another --output_dir")
    for line in warnings_for([job.config for job in left], devices):
        print(f"warning: {line}", file=sys.stderr)


def plan_table(jobs: Sequence[Job], benchmark: Times | None) -> Table:
    """A row for each dataset, method, backbone and number of shots."""
    groups: dict[tuple[str, str, str, int], list[Job]] = {}
    for job in jobs:
        config = job.config
        method = row_title(config.prompt_trainer, config.run_name)
        groups.setdefault((config.dataset, method, config.backbone, config.shots), []).append(job)
    columns = ["dataset", "method", "backbone", "shots", "runs", "finished", "queries per run"]
    table = Table("Plan", [*columns, *(["time per run"] if benchmark else [])])
    for (dataset, method, backbone, shots), members in groups.items():
        finished = sum(job.state == "finished" for job in members)
        config = members[0].config
        row = [dataset, method, backbone, str(shots), str(len(members)), str(finished), queries_text(cost(config))]
        table.rows.append([*row, *([duration(benchmark.seconds(config)) or "?"] if benchmark else [])])
    return table


def time_left(jobs: Sequence[Job], benchmark: Times | None, processes: int) -> str:
    """ ", 3.5 h on 2 processes"; a lower bound where the benchmark does not cover all runs."""
    if not benchmark:
        return ""
    estimates = [benchmark.seconds(job.config) for job in jobs]
    known = [seconds for seconds in estimates if seconds is not None]
    unknown = len(estimates) - len(known)
    note = f" ({unknown} runs are not covered by the benchmark)" if unknown else ""
    on = f"{processes} process{'es' if processes > 1 else ''}"
    return f", {'at least ' if unknown else ''}{duration(sum(known) / processes)} on {on}{note}"


def print_commands(jobs: Sequence[Job]) -> None:
    """The commands of runs that are not finished, one per line."""
    for job in jobs:
        if job.state not in DONE:
            print(f"python {shlex.join(job.command[1:])}")


def queries_text(price: Cost | None) -> str:
    if price is None:
        return "?"
    return grouped(price.queries) if price.exact else f"≤ {grouped(price.queries)}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
