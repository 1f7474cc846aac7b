"""A sweep on a real SLURM of one node, which the test starts: an array of six runs, of which two are stopped and requeued."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from utils.config import REPOSITORY

NODE = REPOSITORY / "tests" / "helpers" / "slurm_one_node.sh"
PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "slurmctld", "slurmd", "munged")
SBIN = "/usr/sbin"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which SLURM's commands reach the node."""
    path = f"{os.environ['PATH']}:{SBIN}"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=path)]
    if missing or os.geteuid():
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}: apt-get install slurm-wlm munge")
    subprocess.run([NODE, "start", tmp_path / "node", "2"], check=True, timeout=60)
    try:
        yield os.environ | {"SLURM_CONF": str(tmp_path / "node" / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    finally:
        subprocess.run([NODE, "stop", tmp_path / "node"], check=True, timeout=60)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(1)


@pytest.mark.slow
def test_array_of_six_runs_is_finished_though_two_tasks_are_stopped_and_requeued(cluster: dict[str, str], tmp_path: Path) -> None:
    def call(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=cluster, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)

    def sweep(*flags: str) -> subprocess.CompletedProcess[str]:
        grid = ("--datasets", "digits", "--methods", "sharpzo", "--backbones", "Mini", "--seeds", *"123456")
        return call(
            *(sys.executable, "-m", "tools.sweep", *grid, "--output_dir", str(tmp_path / "out"), *flags),
            *("--", "--total_steps", "8000", "--intrinsic_dim", "64"),
        )

    done = sweep("--launcher", "slurm", "--slurm", "cpus_per_task=1", "time=10", "array_parallelism=2")
    assert done.returncode == 3 and done.stdout.startswith("6 runs: 0 finished, 0 queued or running, 6 to submit\n"), done.stderr
    # submitting twice does not run anything twice
    again = sweep("--launcher", "slurm")
    assert again.stdout == "6 runs: 0 finished, 6 queued or running, 0 to submit\n"
    assert "6 queued" in sweep("--status").stdout or "running" in sweep("--status").stdout

    (array,) = {line.split("_")[0] for line in call("squeue", "--noheader", "--array", "--format=%i").stdout.split()}
    logs = {seed: tmp_path / "out" / "logs" / f"digits/sharpzo/Mini/16shots/seed{seed}.log" for seed in (1, 2)}
    for log in logs.values():
        wait_for(lambda log=log: log.is_file() and "(stage 2)" in log.read_text(), 300)
    # as an administrator does, and as SLURM does before the time limit
    call("scontrol", "requeue", f"{array}_1")
    call("scancel", "--signal=USR2", f"{array}_0")
    for log in logs.values():
        wait_for(lambda log=log: "interrupted (SIG" in log.read_text(), 60)

    # SLURM waits two minutes before it starts a requeued task again
    wait_for(lambda: not call("squeue", "--noheader").stdout.strip(), 900)
    status = sweep("--status")
    assert (status.returncode, status.stdout) == (0, "6 runs: 6 finished\n")
    for log in logs.values():
        assert "resum" in log.read_text().lower()
