"""Sweeps as SLURM arrays: what is submitted and printed, and what a task does, by submitit's local executor in SLURM's place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.sweeps import FakeTask, seeds, swept
from tools.common import slurm
from tools.common.logs import failure

SLURM = ("--launcher", "slurm")


@pytest.fixture
def local(calls: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Tasks start at once as processes of this machine; the file that is returned has a line per fake run."""
    monkeypatch.setattr(slurm, "CLUSTER", "local")
    monkeypatch.setattr(slurm, "RunTask", FakeTask)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("FAKE", "{}")
    yield calls


def wait_for(condition: object, seconds: float = 600) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def results(tmp_path: Path) -> list[str]:
    return sorted(path.parent.name for path in tmp_path.rglob("result.json"))


def submitted(tmp_path: Path) -> list[dict[str, object]]:
    (record,) = tmp_path.rglob("submitted.jsonl")
    return [json.loads(line) for line in record.read_text().splitlines()]


def test_array_task_makes_its_runs_one_after_another_and_finished_ones_are_not_submitted_again(
    local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert swept(tmp_path, "--seeds", "1", "2", "3", *SLURM, "--runs_per_task", "2") == 3
    out = capsys.readouterr().out
    assert out.startswith("3 runs: 0 finished, 0 queued or running, 3 to submit\n")
    wait_for(lambda: len(results(tmp_path)) == 3)
    tasks = submitted(tmp_path)
    assert [len(task["runs"]) for task in tasks] == [2, 1]
    # the paths of each task's log and each run's log
    assert all(f"task {task['task']}: " in out for task in tasks) and out.count("seed1.log") == 1
    assert swept(tmp_path, "--seeds", "1", "2", "3", *SLURM) == 0
    assert seeds(local) == ["1", "2", "3"] and len(submitted(tmp_path)) == 2


def test_signal_before_the_time_limit_checkpoints_the_run_and_requeues_the_task(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE", '{"1": "wait once"}')
    assert swept(tmp_path, "--seeds", "1", *SLURM) == 3
    wait_for(lambda: list(tmp_path.rglob("waiting")))
    (task,) = submitted(tmp_path)
    children = subprocess.run(["pgrep", "-P", str(task["task"])], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(children[0]), signal.SIGUSR2)
    wait_for(lambda: results(tmp_path) == ["seed1"])
    # started, interrupted with status 3, and started again with the same number of threads
    argv = [json.loads(line)["argv"] for line in local.read_text().splitlines()]
    assert len(argv) == 2 and argv[1][-2] == "--threads"
    capsys.readouterr()
    assert swept(tmp_path, "--seeds", "1", "--status") == 0
    assert capsys.readouterr().out == "1 runs: 1 finished\n"


def test_status_counts_runs_and_quotes_the_last_line_of_each_failure(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE", '{"1": "fail", "2": "interrupt", "5": "signal"}')
    assert swept(tmp_path, "--seeds", "1", "2", "3", "5") == 1
    capsys.readouterr()
    assert swept(tmp_path, "--seeds", "1", "2", "3", "4", "5", "--status") == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("failed: ") and lines[0].endswith("seed1'")
    assert lines[1] == "  error: the seed is unlucky" and lines[2].startswith("  log: ")
    assert last == "5 runs: 1 finished, 2 interrupted, 1 not started, 1 failed"
    # run again, it does not count as failed
    monkeypatch.setenv("FAKE", "{}")
    assert swept(tmp_path, "--seeds", "1", "2", "3") == 0
    assert swept(tmp_path, "--seeds", "1", "2", "3", "--status") == 0


def test_run_killed_by_a_signal_counts_as_failed_and_an_interrupted_run_does_not(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert failure(log) is None
    for text, said in (("a\n[exit status -9]\n", "a"), ("[exit status -9]\n", "[exit status -9]"), ("a\ninterrupted\n", None)):
        log.write_text(text)
        assert failure(log) == said


def test_runs_in_the_queue_are_not_submitted_again(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    queue = folder / "squeue"
    queue.write_text("#!/bin/sh\necho 7_0 PD\necho 7_1 CG\n")
    queue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    assert swept(tmp_path, "--seeds", "1", "2", "--print-commands") == 0
    paths = [job.path for job in jobs_of(tmp_path)]
    record = tmp_path / "out folder" / "logs" / "slurm" / "submitted.jsonl"
    record.parent.mkdir(parents=True)
    record.write_text("".join(json.dumps({"task": f"7_{i}", "runs": [str(path)]}) + "\n" for i, path in enumerate(paths)))
    capsys.readouterr()
    assert swept(tmp_path, "--seeds", "1", "2", *SLURM) == 3
    assert capsys.readouterr().out.startswith("2 runs: 0 finished, 1 queued or running, 1 to submit\n")
    # only the task that completes
    wait_for(lambda: results(tmp_path) == ["seed2"])
    assert swept(tmp_path, "--seeds", "1", "2", "--status") == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [f"queued: {paths[0]} (task 7_0)", "2 runs: 1 finished, 1 queued"]


def jobs_of(tmp_path: Path) -> list[slurm.Job]:
    from tests.helpers.sweeps import DIGITS
    from tools import sweep

    return sweep.make_jobs(sweep.parse([*DIGITS, "--output_dir", str(tmp_path / "out folder"), "--seeds", "1", "2"]))


def test_dry_run_prints_the_plan_and_the_script(local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--slurm", "partition=gpu", "time=60", "gpus_per_node=1", "array_parallelism=2", "setup=module load cuda")
    assert swept(tmp_path, "--seeds", "1", "2", "3", *SLURM, *options, "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.startswith("dataset")
    lines = out[out.index("#!/bin/bash") :].splitlines()
    wanted = ("array=0-2%2", "partition=gpu", "time=60", "gpus-per-node=1", "requeue", "signal=USR2@90")
    assert {f"#SBATCH --{option}" for option in wanted} <= set(lines) and "module load cuda" in lines
    assert not local.exists() and not list(tmp_path.rglob("logs"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((*SLURM, "--slurm", "partition"), "--slurm: 'partition': expected KEY=VALUE"),
        ((*SLURM, "--slurm", "partion=gpu"), "--slurm: unknown key 'partion' (did you mean 'partition'?); choose from"),
        ((*SLURM, "--slurm", "time=4:00"), "--slurm: 'time=4:00': time must be an integer (minutes)"),
        ((*SLURM, "--slurm", "exclusive=1"), "--slurm: 'exclusive=1': exclusive must be true or false"),
        (("--slurm", "partition=gpu"), "--slurm: is for SLURM; add --launcher slurm"),
        (("--runs_per_task", "2"), "--runs_per_task: is for SLURM; add --launcher slurm"),
        ((*SLURM, "--runs_per_task", "0"), "--runs_per_task: 0 is out of range"),
    ],
)
def test_wrong_slurm_option_is_refused_in_one_line(
    argv: tuple[str, ...], said: str, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert swept(tmp_path, *argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}") and error.count("\n") == 1 and not list(tmp_path.rglob("logs"))


def test_machine_without_slurm_or_submitit_is_refused_in_one_line(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slurm, "CLUSTER", "slurm")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert swept(tmp_path, "--seeds", "1", *SLURM) == 1
    assert "error: --launcher slurm: not submitted: Could not detect" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert swept(tmp_path, "--seeds", "1", *SLURM) == 2
    assert "error: --launcher slurm: needs submitit" in capsys.readouterr().err
