"""How a sweep runs its jobs: skipped and resumed runs, devices, failures, and runs of other sweeps."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers.sweeps import DIGITS, seeds, swept
from tools import status, sweep
from tools.common import runner
from utils.config import REPOSITORY


def test_sweep_skips_finished_runs_and_resumes_interrupted_ones(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", '{"2": "interrupt"}')
    flags = ("--seeds", "1", "2", "--", "--threads", "0")
    assert swept(tmp_path, *flags) == 3
    monkeypatch.setenv("FAKE", "{}")
    calls.unlink()
    assert swept(tmp_path, *flags) == 0
    assert seeds(calls) == ["2"]
    # with the number of threads that it was begun with
    argv = json.loads(calls.read_text())["argv"]
    assert argv[-2:] == ["--threads", "3"]


def test_failing_run_does_not_stop_the_rest_and_is_named_at_the_end(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE", '{"1": "fail"}')
    assert swept(tmp_path, "--seeds", "1", "2", "3") == 1
    assert seeds(calls) == ["1", "2", "3"]
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "2 finished, 1 failed"
    named = captured.err.splitlines()
    assert named[0].startswith("failed: ") and "--seed 1" in named[0]
    assert named[1].strip() == "error: the seed is unlucky"
    # all that the run printed
    log = named[2].strip().removeprefix("log: ")
    assert Path(log).read_text().splitlines()[0] == "warning: something"


def test_each_process_sees_its_own_card(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert swept(tmp_path, "--seeds", "1", "2", "3", "4", "--devices", "cuda:0", "cuda:1") == 0
    entries = [json.loads(line) for line in calls.read_text().splitlines()]
    assert {entry["cards"] for entry in entries} == {"0", "1"}
    # a run's device is one of its settings: it is the same run on every card
    assert not any("--device" in entry["argv"] for entry in entries)


def test_processes_on_the_cpu_share_its_threads(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    given = []
    monkeypatch.setattr(runner.Runner, "run", lambda self, jobs: given.append(self.environment) or runner.Outcome())
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for flags in (
        ("--processes", "2"),
        ("--devices", "cpu", "--processes", "2"),
        ("--devices", "cuda:0", "cuda:1"),
        ("--devices", "cpu"),
    ):
        assert swept(tmp_path, "--seeds", "1", *flags) == 0
    assert [environment.get("OMP_NUM_THREADS") for environment in given] == ["4", "4", None, None]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_sweep_stops_its_runs_and_starts_no_others(number: signal.Signals, calls: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tools import sweep; from tools.common import runs;"
        f"runs.MAIN = Path({str(REPOSITORY / 'tests' / 'helpers' / 'fake_main.py')!r}); sys.exit(sweep.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, *DIGITS, "--output_dir", str(tmp_path / "out"), "--seeds", "1", "2"]
    process = subprocess.Popen(command, env=os.environ | {"FAKE": '{"1": "wait"}'}, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while not list(tmp_path.rglob("waiting")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 3
    assert out.splitlines()[-1] == "0 finished, 1 interrupted, 1 not started"
    assert seeds(calls) == ["1"]


# Locks a run folder, as a run of another sweep does, until a file appears; then finishes the run or gives it up.
OTHER = """
import json, sys, time
from pathlib import Path
from utils.lock import lock
folder, fate = Path(sys.argv[1]), sys.argv[2]
folder.mkdir(parents=True)
held = lock(folder)
(folder / "held").touch()
while not (folder.parent / "release").exists():
    time.sleep(0.05)
if fate == "finish":
    (folder / "config.yaml").write_text(Path(sys.argv[3]).read_text())
    (folder / "result.json").write_text(json.dumps({"test_accuracy": 70.0}))
"""


@pytest.mark.parametrize("fate", ["finish", "give up"])
def test_run_of_another_sweep_is_left_to_it_and_taken_over_if_it_gives_up(
    fate: str, calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "ELSEWHERE_SECONDS", 0.1)
    output = ("--output_dir", str(tmp_path / "out folder"))
    first, second = sweep.make_jobs(sweep.parse([*DIGITS, "--seeds", "1", "2", *output]))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(first.config.as_dict()))
    command = [sys.executable, "-c", OTHER, str(first.path), fate, str(tmp_path / "config.yaml")]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}) as other:
        wait_for(first.path / "held")
        # the sweep has passed over the first run when the second has its result
        releaser = threading.Thread(target=release_after, args=(second.path / "result.json", first.path.parent / "release"))
        releaser.start()
        assert swept(tmp_path, "--seeds", "1", "2") == 0
        releaser.join()
        other.wait(timeout=600)
    lines = capsys.readouterr().out.splitlines()
    assert f"[0/2] {first.path}: running elsewhere" in lines
    assert any(line.startswith(f"[1/2] {second.path}: finished, 52.0%") for line in lines)
    assert seeds(calls) == (["2"] if fate == "finish" else ["1", "2"])
    assert any(
        line.startswith(f"[2/2] {first.path}: finished, {'70.0%, elsewhere' if fate == 'finish' else '51.0%'}") for line in lines
    )


def release_after(result: Path, release: Path) -> None:
    wait_for(result)
    release.touch()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 600
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert path.exists()


def test_each_run_is_reported_and_a_table_of_results_ends_the_sweep(
    calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert swept(tmp_path, "--seeds", "1", "2", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 runs: 0 finished, 3 to run on 1 process"
    assert re.fullmatch(r"\[1/3\] .*/seed1: finished, 51\.0%, \d+ (s|min), \d+ (s|min) left", lines[1])
    assert re.fullmatch(r"\[3/3\] .*/seed3: finished, 53\.0%, \d+ (s|min)", lines[3])
    assert re.split(r"  +", lines[-3]) == ["digits", "SharpZO", "Mini", "16", "3", "52.00 ± 2.48 (n = 3)"]
    assert lines[-1] == "3 finished"


def test_status_lists_finished_running_and_interrupted_runs(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE", '{"2": "interrupt"}')
    assert swept(tmp_path, "--seeds", "1", "2") == 3
    running = next(tmp_path.rglob("seed1")).with_name("seed3")
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(running), "give up"], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    ):
        wait_for(running / "held")
        (running / "config.yaml").touch()
        capsys.readouterr()
        assert status.main([str(tmp_path)]) == 3
        (running.parent / "release").touch()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["state", "finished", "interrupted", "running", "3"]
    assert lines[1].split()[1] == "51.00"
    assert lines[-1] == "3 runs: 1 finished, 1 interrupted, 1 running"
    assert status.main([str(tmp_path / "none")]) == 2
