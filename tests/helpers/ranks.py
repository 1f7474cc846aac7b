"""Runs on several ranks, each a process that a server forks, with gloo between them."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.helpers.runs import fork, run_command

# seconds after which a wedged group fails a test rather than stopping the suite; far above any run on a loaded machine
PATIENCE = 1200.0
# below the ports that systems give to outgoing connections, which could take one before rank 0 listens on it
PORTS = range(10_000, 30_000)

# `change(rank)` runs in each process before main
Change = Callable[[int], None]


def free_port() -> int:
    """A port that nobody listens on; test processes that run at the same time try others first."""
    generator = random.Random(f"{os.getpid()} {next(_calls)}")
    while True:
        port = generator.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


_calls = itertools.count()


def _rank(flags: list[str], log: Path, environment: dict[str, str], change: Change | None) -> None:
    os.environ.update(environment)
    if change:
        change(int(environment["RANK"]))
    run_command(flags, log)


def start_ranks(size: int, flags: list[str], logs: Path, change: Change | None = None) -> list[BaseProcess]:
    """Starts main on `size` ranks; rank r prints to `logs`/r."""
    logs.mkdir(exist_ok=True)
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environments = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    return [fork(_rank, flags, logs / environment["RANK"], environment, change) for environment in environments]


def statuses(processes: list[BaseProcess]) -> list[int | None]:
    """The exit status of each rank."""
    for process in processes:
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def run_ranks(size: int, flags: list[str], logs: Path, change: Change | None = None) -> list[int | None]:
    return statuses(start_ranks(size, flags, logs, change))
