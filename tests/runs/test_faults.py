"""Injected faults: each ends with one line that says what happened, and loses nothing that was saved."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose

from clip.prompt import load_prompt
from datasets import features
from main_sharpzo import main
from tests.helpers.data import refusal
from tests.helpers.runs import FINISHED, FLAGS, Broken, call_at, outcome, start, stop_in_call
from trainers.blackbox.objective import Objective
from trainers.sharpzo.stage2 import SparseZO
from utils import progress
from utils.config import REPOSITORY
from utils.interrupt import Interrupted
from utils.memory import is_out_of_memory
from utils.replay import CHECKPOINT, LOSSES, PREVIOUS_CHECKPOINT

pytestmark = pytest.mark.usefixtures("one_mini")


@pytest.mark.parametrize("held", ["config.yaml", "state of another seed"])
def test_checkpoint_of_other_settings_is_refused_and_never_resumed(
    held: str, whole: tuple, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = broken.stopped(monkeypatch)
    with monkeypatch.context() as patch:
        stop_in_call(patch, 8, Interrupted("test"))
        assert broken.run("--seed", "2") == 3
    other = folder.with_name("seed2")
    for path in other.iterdir():
        # as after a killed --overwrite, or an incomplete copy
        if path.name not in ("config.yaml", "env.json"):
            path.replace(folder / path.name)
    if held == "config.yaml":
        (folder / "config.yaml").unlink()
    assert broken.run() == 0
    assert f"warning: {folder / CHECKPOINT}: ignored: it belongs to a run with other settings" in broken.printed
    assert "starting over" in broken.printed
    assert outcome(folder) == whole


def test_refused_state_does_not_replace_the_valid_previous_state(
    whole: tuple, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = broken.stopped(monkeypatch)
    previous = (folder / PREVIOUS_CHECKPOINT).read_text()
    (folder / CHECKPOINT).write_text("{")
    with monkeypatch.context() as patch:
        # the second start saves one state
        stop_in_call(patch, 3, Interrupted("test"))
        assert broken.run() == 3
    assert (folder / PREVIOUS_CHECKPOINT).read_text() == previous
    (folder / CHECKPOINT).write_text("{")
    broken.ends_as(whole)
    assert "resuming after step 2" in broken.printed


TRUNCATED = ["env.json", "log.txt", "split.json", "metrics.jsonl", LOSSES, CHECKPOINT, PREVIOUS_CHECKPOINT]


@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_file_of_an_interrupted_run_costs_at_most_its_steps(
    name: str, whole: tuple, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = broken.stopped(monkeypatch) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    broken.ends_as(whole)


def test_truncated_settings_are_refused_with_the_way_out(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    path = broken.stopped(monkeypatch) / "config.yaml"
    path.write_bytes(path.read_bytes()[:40])
    assert broken.run() == 2
    assert "--overwrite" in broken.error


def test_truncated_prompt_is_refused(broken: Broken) -> None:
    assert broken.run() == 0
    path = broken.folder / "prompt.safetensors"
    for length in (0, 3, 200, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:length])
        assert str(path) in refusal(load_prompt, path)


def fail_with(number: int) -> Callable[..., None]:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("limit", "name"), [(600, "(split.json|log.txt)"), (1300, r"(metrics.jsonl|losses.bin)"), (30_000, "prompt.safetensors")]
)
def test_full_disk_names_the_file_and_the_run_resumes_with_space(
    limit: int, name: str, whole: tuple, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses what would make a file larger than `limit`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    broken.stopped(monkeypatch, 1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        assert broken.run() == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert re.match(rf"error: {broken.folder}/{name}: File too large; then run the same command", broken.error)
    assert not list(broken.folder.glob("*.tmp"))
    broken.ends_as(whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "outputs"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("mounting a small disk is root's")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_and_read_only_disks(small_disk: Path, whole: tuple, broken: Broken) -> None:
    assert broken.run() == 1
    assert re.match(rf"error: {broken.folder}/\S+: No space left on device; then run the same command", broken.error)
    assert not list(broken.folder.glob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,ro,size=1m", small_disk], check=True)
    assert broken.run() == 2
    assert broken.error == f"error: --output_dir: {small_disk}: {small_disk} cannot be written\n"
    subprocess.run(["mount", "-o", "remount,rw,size=1m", small_disk], check=True)
    broken.ends_as(whole)


def test_disk_that_is_full_from_the_start_leaves_no_folder(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    assert broken.run("--no-cache") == 2
    assert "No space left on device" in broken.error
    assert not broken.folder.exists()


def test_closed_output_ends_the_run_and_saves_its_steps(whole: tuple, broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    for number, reason in ((writing, "Broken pipe"), (full, "No space left")):
        broken_output = os.fdopen(number, "w")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", broken_output)
            assert main([*FLAGS, "--output_dir", str(broken.root)]) == 1
        assert f"error: standard output: {reason}" in broken.capsys.readouterr().err
        with contextlib.suppress(OSError):
            broken_output.close()
    with monkeypatch.context() as patch:
        # as started with  >&-
        patch.setattr(sys, "stdout", None)
        assert main([*FLAGS, "--output_dir", str(broken.root)]) == 0
    assert outcome(broken.folder) == whole


def test_reader_that_leaves_early_gets_one_line_and_status_one(tmp_path: Path) -> None:
    command = [sys.executable, "main_sharpzo.py", "--prompt_trainer", "zero-shot", "--output_dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY)
    process.stdout.close()
    error = process.stderr.read().decode()
    assert (process.wait(), len(error.splitlines())) == (1, 1)
    assert error.startswith("error: standard output: Broken pipe")


OUT_OF_MEMORY = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has\na total capacity of 4 GiB"),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 12. DefaultCPUAllocator: can't allocate memory: you tried"),
    "numpy": MemoryError("Unable to allocate 74.5 GiB for an array with shape (100000, 100000) and data type float64"),
}


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_out_of_memory_names_a_setting_to_lower_and_saves_finished_steps(
    kind: str, whole: tuple, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_in_call(patch, 8, OUT_OF_MEMORY[kind])
        assert broken.run() == 1
    assert re.search(
        r"out of memory.*--memory_limit is 1024, and \d+ MiB are free\..*--memory_limit \d+ and its own --run_name", broken.error
    )
    assert json.loads((broken.folder / CHECKPOINT).read_text())["checkpoint"]["step"] == 3
    broken.ends_as(whole)


def test_out_of_memory_in_the_image_tower_names_the_batch_size(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    call_at(monkeypatch, features.FeatureReader, "_compute", 1, raising(OUT_OF_MEMORY["CPU"]))
    assert broken.run("--no-cache") == 1
    assert "--batch_size is 256" in broken.error and "with --batch_size 128 and" in broken.error
    assert not broken.root.exists()


def test_torch_and_numpy_run_out_of_memory_as_we_think_they_do() -> None:
    for allocate in (lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda: np.empty(1 << 60, dtype=np.uint8)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_loss_names_its_step_and_the_step_before_is_saved(
    value: float, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, calls = Objective._losses, iter(range(10**6))

    def turning(self: Objective, *arguments: object) -> torch.Tensor:
        return losses(self, *arguments) * (value if next(calls) >= 10 else 1)

    monkeypatch.setattr(Objective, "_losses", turning)
    assert broken.run() == 1
    step = int(re.fullmatch(rf"error: loss {value} at query \d+ .*; in step (\d+)\n", broken.error)[1])
    assert json.loads((broken.folder / CHECKPOINT).read_text())["checkpoint"]["step"] == step - 1
    assert "NaN" not in (broken.folder / "metrics.jsonl").read_text()


def test_nonfinite_figure_stops_the_run_and_is_named(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    step = SparseZO.step
    monkeypatch.setattr(SparseZO, "step", lambda self, loss: step(self, loss) | {"grad_norm": float("inf")})
    assert broken.run() == 1
    assert re.match(r"error: grad_norm inf: .*; in step 5\n", broken.error)


def test_thread_that_fails_fails_the_run_and_leaves_no_thread(
    whole: tuple, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, numbers, failed_in = threading.active_count(), itertools.count(1), []
    transform = Compose.__call__

    def decode(self: Compose, picture: Image.Image) -> torch.Tensor:
        if next(numbers) == 50:
            failed_in.append(threading.current_thread())
            raise MemoryError
        return transform(self, picture)

    with monkeypatch.context() as patch:
        patch.setattr(Compose, "__call__", decode)
        assert broken.run("--no-cache") == 1
    assert "out of memory: --batch_size is 256" in broken.error
    assert not broken.root.exists()
    assert failed_in[0] is not threading.main_thread()
    assert threading.active_count() == before
    assert next(numbers) < 531
    broken.ends_as(whole)


def test_clock_that_jumps_changes_nothing(whole: tuple, broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(1)
    monkeypatch.setattr(time, "time", lambda: generator.uniform(-1e9, 1e10))
    monkeypatch.setattr(time, "time_ns", lambda: int(generator.uniform(-1e18, 1e18)))
    # with the progress bar, which reads the clock
    monkeypatch.setattr(progress, "is_terminal", lambda: True)
    assert main([*FLAGS, "--output_dir", str(broken.root), "--max_seconds", "100"]) == 0
    assert outcome(broken.folder) == whole


def test_files_have_the_permissions_of_the_users_umask(broken: Broken) -> None:
    before = os.umask(0o027)
    try:
        assert broken.run() == 0
    finally:
        os.umask(before)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in broken.folder.iterdir()} == dict.fromkeys(FINISHED, "0o640")


def test_two_simultaneous_starts_make_one_run(whole: tuple, broken: Broken, tmp_path: Path) -> None:
    logs = [tmp_path / "first", tmp_path / "second"]
    processes = [start([*FLAGS, "--output_dir", str(broken.root)], log) for log in logs]
    for process in processes:
        process.join()
    statuses = {process.exitcode: log.read_text() for process, log in zip(processes, logs, strict=True)}
    assert 0 in statuses
    refused = statuses.pop(1, "finished already")
    assert "another process" in refused or "finished already" in refused
    assert outcome(broken.folder) == whole


@pytest.mark.parametrize(("runs", "at_once"), [(8, 4), pytest.param(200, 8, marks=pytest.mark.slow)])
def test_many_runs_at_once_share_a_cache_and_an_output_folder(runs: int, at_once: int, tmp_path: Path) -> None:
    def flags(seed: int) -> list[str]:
        return [
            *FLAGS,
            "--total_steps",
            "5",
            "--seed",
            str(seed),
            "--output_dir",
            str(tmp_path),
            "--cache_dir",
            str(tmp_path / "c"),
        ]

    waiting, working = list(range(runs)), []
    while waiting or working:
        while waiting and len(working) < at_once:
            working.append(start(flags(waiting.pop()), tmp_path / "log"))
        working[0].join()
        assert working.pop(0).exitcode == 0
    assert len(list(tmp_path.rglob("result.json"))) == runs
    assert not re.search("warning: (?!the result is below zero-shot)", (tmp_path / "log").read_text())
    again = tmp_path / "again"
    assert main([*flags(0)[: len(FLAGS)], "--total_steps", "5", "--seed", "0", "--no-cache", "--output_dir", str(again)]) == 0
    assert outcome(again / "digits/sharpzo/Mini/2shots/seed0") == outcome(tmp_path / "digits/sharpzo/Mini/2shots/seed0")
