"""Times that decide how a run scales, measured on a text tower of ViT-B/16's size: passes, ranks on one machine, and messages."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tools.common.engine_costs import (
    D_INTRINSIC,
    TEXT,
    Subject,
    class_names,
    make_subject,
    projection_std,
    random_backbone,
)
from tools.common.pass_memory import most_allocated
from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.estimators import CGE
from trainers.blackbox.passes import Passes
from trainers.sharpzo.stage1 import SharpnessAwareCMAES
from utils.device import device_name
from utils.ranks import Group
from utils.seeds import numpy_generator

# queries per pass whose time is measured, and repetitions, of which the shortest counts
SIZES = {"eurosat": (1, 2, 4, 8, 21, 42), "imagenet": (1, 2)}
REPETITIONS = {"eurosat": 3, "imagenet": 2}
# queries per call on ranks: stage 2 with q = 1, 4 and 16, and a part of stage 1's gradient
CALLS = (2, 8, 32, 84)
LAYOUTS = {"1x1": (1, 1), "1x2": (1, 2), "2x1": (2, 1)}
GATHERS = 10


def shortest(work: Callable[[], object], repetitions: int) -> float:
    """Seconds of the fastest of some calls, after one that is not counted: what other processes take only adds to it."""
    work()
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def subject_of(dataset: str) -> Subject:
    return make_subject(class_names(dataset), random_backbone(TEXT), D_INTRINSIC, projection_std(dataset))


def measure_passes() -> dict[str, Any]:
    """On one thread: what `passes_of` measures of each dataset, and the update's seconds."""
    torch.set_num_threads(1)
    about: dict[str, Any] = {"device": device_name(torch.device("cpu")), "torch": torch.__version__}
    about |= {"load_average": os.getloadavg()[0], "cores": os.cpu_count()}
    found = {dataset: passes_of(dataset) for dataset in SIZES}
    return {"datasets": found, "update_seconds": update_seconds(), "passes_measured_on": about}


def passes_of(dataset: str) -> dict[str, Any]:
    """Seconds per pass by its number of queries, float64's factor, and the MiB of tensors of the engine's first pass."""
    subject = subject_of(dataset)
    objective, repetitions, (_, few, *_) = subject.by_engine, REPETITIONS[dataset], SIZES[dataset]

    def seconds(size: int, mu: float | None = None) -> float:
        return shortest(lambda: objective(subject.W[:size], mu=mu), repetitions)

    # before any other pass, whose buffers would be used again
    full = subject.fast.chunk(torch.float32)
    allocated = most_allocated(lambda: objective(subject.W[:full]), torch.device("cpu")) / 2**20
    by_size = {size: seconds(size) for size in SIZES[dataset]}
    return {
        "names": len(subject.names),
        "queries_per_engine_pass": full,
        "points_per_pass": objective.model.points_per_pass(),
        "pass_seconds": by_size,
        "double": seconds(few, 1e-5) / by_size[few],
        "engine_pass_mib": allocated,
    }


def update_seconds() -> float:
    """Of a stage-1 step, all but the queries."""
    generator = numpy_generator(0, "CMA-ES")
    w = torch.zeros(D_INTRINSIC, dtype=torch.float64)
    inner = CMAES(w, sigma=0.4, popsize=40, bound=5.0, normal=lambda n, size: generator.standard_normal((n, size)))
    stage = SharpnessAwareCMAES(inner, rho=0.1, estimator=CGE(mu=1e-3))
    # a loss that takes no time
    bowl: Any = lambda W, mu=None: W.square().sum(1)  # noqa: E731
    return shortest(lambda: stage.step(bowl), 3)


def measure_ranks() -> dict[str, Any]:
    """Seconds per call of some queries on EuroSAT's names, by processes × threads on this machine."""
    found: dict[str, dict[str, float]] = {str(queries): {} for queries in CALLS}
    load = os.getloadavg()[0]
    for layout, (processes, threads) in LAYOUTS.items():
        for queries, seconds in zip(CALLS, spawned(time_calls, processes, threads), strict=True):
            found[str(queries)][layout] = seconds
    return {"ranks": found, "ranks_measured_at_load": load}


def time_calls(group: Group | None, processes: int) -> list[float]:
    subject = subject_of("eurosat")
    objective = subject.by_engine
    objective.passes = Passes(processes, group)

    def seconds(queries: int) -> float:
        return shortest(lambda: objective(subject.W[:queries]), 5 if queries < 40 else 3)

    return [seconds(queries) for queries in CALLS]


def measure_hop() -> dict[str, Any]:
    """Seconds of an all-gather of 43 losses between two processes of this machine, by gloo."""
    return {"hop_seconds": spawned(time_gather, 2, 1)[0]}


def time_gather(group: Group | None, processes: int) -> list[float]:
    def gather_all() -> None:
        for _ in range(GATHERS):
            if group:
                group.gather(np.zeros(43), [43] * processes, 0)

    return [shortest(gather_all, 30) / GATHERS]


def spawned(work: Callable[[Group | None, int], list[float]], processes: int, threads: int) -> list[float]:
    """What rank 0 of some processes returns."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = mp.get_context("spawn").SimpleQueue()
    mp.spawn(_rank, args=(work, processes, threads, port, results), nprocs=processes)
    found: list[float] = results.get()
    return found


def _rank(rank: int, work: Callable[..., list[float]], processes: int, threads: int, port: int, results: Any) -> None:
    torch.set_num_threads(threads)
    group = None
    if processes > 1:
        where = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", init_method=where, rank=rank, world_size=processes, timeout=timedelta(seconds=600))
        group = Group(rank=rank, size=processes, device="cpu", timeout=600)
    found = work(group, processes)
    if rank == 0:
        results.put(found)
    if group:
        dist.destroy_process_group()


PARTS: dict[str, Callable[[], dict[str, Any]]] = {"passes": measure_passes, "ranks": measure_ranks, "hop": measure_hop}


def measure(part: str) -> dict[str, Any]:
    return PARTS[part]()
