"""The rates of the device itself, and the speed of queries, tangents and steps."""

from __future__ import annotations

import functools
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from clip.backbone import Backbone
from tools.benchmark import measure, table
from tools.common.engine_costs import TEXT, class_names, projection_std, random_backbone
from tools.common.tangent_costs import tangent_table
from tools.maintain.gpu_check.report import Report, Row, make_objective, set_replay

DIMENSION = 512


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 5, inner: int = 1) -> float:
    """The median time of `work` over `repeats`, each of `inner` consecutive calls, after one call that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(inner):
            work()
        synchronize(device)
        times.append((time.perf_counter() - started) / inner)
    return statistics.median(times)


def check_machine(device: torch.device, report: Report, quick: bool) -> None:
    """The machine, and the rates that its own library reaches."""
    report.note("device", torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor())
    report.note("torch", torch.__version__)
    report.note("tf32", {"matmul": torch.backends.cuda.matmul.allow_tf32, "precision": torch.get_float32_matmul_precision()})
    report.note("product_tflops", product_rates(device, 1024 if quick else 8192))
    flags = Path("/proc/cpuinfo")
    if flags.exists():
        words = set(flags.read_text().split())
        report.note("cpu_flags", sorted(words & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}))
    torch.set_num_threads(1)
    report.note("cpu_product_tflops_one_thread", product_rates(torch.device("cpu"), 512 if quick else 2048))


def product_rates(device: torch.device, size: int) -> dict[str, float]:
    """Rates of square products of random numbers, in TFLOP/s."""
    rates = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        square = torch.randn(size, size, device=device).to(dtype)
        out = torch.empty_like(square)
        taken = seconds(functools.partial(torch.mm, square, square, out=out), device, 3)
        rates[str(dtype).removeprefix("torch.")] = round(2e-12 * size**3 / taken, 3)
    return rates


def check_speed(device: torch.device, report: Report, quick: bool) -> None:
    """tools.benchmark's figures, and steps of stage 2 with and without CUDA graphs."""
    backbone = random_backbone(TEXT if not quick else TEXT | {"width": 64, "heads": 2, "layers": 3}, str(device))
    torch.set_num_threads(4 if device.type == "cuda" else 1)
    rows: list[Row] = []
    for dataset in ("eurosat",) if quick else ("eurosat", "dtd", "fgvc_aircraft", "imagenet"):
        passes = 1 if dataset == "imagenet" else 4
        rows.append(measure(dataset, class_names(dataset), backbone, 3, passes, generation=False, tangents=True))
        if device.type == "cuda":
            rows[-1] |= steps_per_second(dataset, backbone)
        report.note("rows", rows)
    (report.path.parent / "speed.md").write_text(table(rows) + "\n\n" + tangent_table(rows) + "\n", encoding="utf-8")
    if device.type == "cuda":
        report.note("profiles", {way: profile(backbone, "fgvc_aircraft", way) for way in ("queries", "tangents")})


def steps_per_second(dataset: str, backbone: Backbone) -> dict[str, float]:
    """Steps of stage 2, two queries each, with and without CUDA graphs."""
    objective, text = make_objective(backbone, class_names(dataset), DIMENSION, projection_std(dataset), "auto")
    W = 0.02 * torch.randn(2, DIMENSION, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rates = {}
    for name, replay in (("steps_per_second", True), ("steps_per_second_without_graphs", False)):
        set_replay(text, replay)
        rates[name] = 1 / seconds(lambda: objective(W), backbone.device, 3, 20)
    return rates


def profile(backbone: Backbone, dataset: str, way: str) -> list[str]:
    """The kernels that take the most device time in a pass of queries, or of tangents in bfloat16."""
    objective, text = make_objective(backbone, class_names(dataset), DIMENSION, projection_std(dataset), "float32")
    objective.tangent_precision = "bfloat16"
    W = torch.eye(DIMENSION, dtype=torch.float64)[: text.chunk(torch.float32)]

    def work() -> None:
        if way == "queries":
            objective(W)
        else:
            objective.jvp(W[0], W)

    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        work()
        synchronize(backbone.device)
    events = sorted(found.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in events) or 1.0
    return [f"{event.self_device_time_total / total:.1%} {event.count} × {event.key[:110]}" for event in events[:16]]
