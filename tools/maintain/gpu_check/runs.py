"""Whole runs on the device: repeated, interrupted and resumed, and a few steps of every trainer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from tools.maintain.gpu_check.report import Report, Row

SHORT_RUN = {"--shots": 4, "--popsize": 10, "--intrinsic_dim": 64, "--change_point": 10, "--save_every": 5, "--eval_every": 20}


def outcome(root: Path) -> tuple[list[Row], Row]:
    """The log and the result of the run below `root`, without their timings."""
    folder = next(root.rglob("result.json")).parent
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    return [without_times(row) for row in rows], without_times(result)


def without_times(row: Row) -> Row:
    return {key: value for key, value in row.items() if "seconds" not in key}


def check_runs(device: torch.device, report: Report, quick: bool) -> None:
    """The default run; and a short run under --deterministic, its repeat, and its interrupted and resumed copy: equal bits."""
    from main_sharpzo import main

    base = report.path.parent / "runs"
    short = [str(text) for pair in SHORT_RUN.items() for text in pair] + ["--total_steps", "60" if quick else "300"]

    def run(name: str, *flags: str) -> Path:
        status = main(["--device", str(device), *flags, "--output_dir", str(base / name), "--overwrite"])
        report.require(status == 0, f"the run {name} ended with status {status}")
        return base / name

    def seconds_of(root: Path) -> float:
        return json.loads(next(root.rglob("result.json")).read_text())["seconds"]

    ends = {name: outcome(run(name, *short, "--deterministic")) for name in ("first", "second")}
    report.note("deterministic_repeats", ends["first"] == ends["second"])
    report.require(report["deterministic_repeats"], "two runs with --deterministic differ")

    resumed = ["--device", str(device), *short, "--deterministic", "--output_dir", str(base / "resumed")]
    with interrupt_at(base / "resumed", step=30):
        status = main(resumed)
    report.require(status == 3, f"the interrupted run ended with status {status}, not 3")
    same = main(resumed) == 0 and outcome(base / "resumed") == ends["first"]
    report.note("resume_repeats", same)
    report.require(same, "the resumed run differs from the uninterrupted one")

    plain, reference = outcome(run("plain", *short)), outcome(run("cpu", *short, "--device", "cpu"))
    report.note("short_run_test_accuracy", {"device": plain[1]["test_accuracy"], "cpu": reference[1]["test_accuracy"]})
    report.note("short_run_seconds", {"device": seconds_of(base / "plain"), "cpu": seconds_of(base / "cpu")})
    difference = abs(plain[0][0]["train_loss"] - reference[0][0]["train_loss"])
    report.note("first_loss_apart", difference)
    report.require(difference < 1e-5, f"the loss at the first w differs from the CPU's by {difference:.1e}")

    if not quick:
        root = run("default")
        report.note("default_run", outcome(root)[1] | {"seconds": seconds_of(root)})


@contextlib.contextmanager
def interrupt_at(root: Path, step: int) -> Iterator[None]:
    """Sends this process SIGINT once the log of the run below `root` has reached `step`."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            if any(len(log.read_bytes().splitlines()) > step for log in root.rglob("metrics.jsonl")):
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def check_trainers(device: torch.device, report: Report, quick: bool) -> None:
    """Requires that a few steps of every trainer succeed."""
    from main_sharpzo import main
    from trainers import TRAINERS

    flags = ["--shots", "2", "--popsize", "4", "--intrinsic_dim", "16", "--total_steps", "6", "--change_point", "3"]
    flags += ["--prune_interval", "2", "--eval_every", "3", "--overwrite", "--device", str(device)]
    names = [name for name, info in TRAINERS.items() if info.build]
    statuses = {}
    for name in names[:3] if quick else names:
        try:
            statuses[name] = main([*flags, "--prompt_trainer", name, "--output_dir", str(report.path.parent / "trainers")])
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError):
            traceback.print_exc()
            statuses[name] = 70
        report.note("trainer_statuses", statuses)
    failed = [name for name, status in statuses.items() if status]
    report.require(not failed, f"trainers that failed: {', '.join(failed)} (see trainers.log)")
