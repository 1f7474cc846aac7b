"""Sweeps whose runs are faked (fake_main.py), for tests of the sweep and its runner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tools import sweep
from tools.common import runs
from tools.common.names import OURS
from tools.common.slurm import RunTask
from utils.config import REPOSITORY

FAKE_MAIN = REPOSITORY / "tests" / "helpers" / "fake_main.py"
DIGITS = ("--datasets", "digits", "--methods", OURS, "--backbones", "Mini")


def swept(tmp_path: Path, *argv: str) -> int:
    return sweep.main([*DIGITS, "--output_dir", str(tmp_path / "out folder"), *argv])


def seeds(calls: Path) -> list[str]:
    argv = [json.loads(line)["argv"] for line in calls.read_text().splitlines()]
    return sorted(flags[flags.index("--seed") + 1] for flags in argv)


class FakeTask(RunTask):
    """An array task whose runs are faked, in the process that submitit starts for it."""

    def __call__(self, flags: Sequence[tuple[str, ...]]) -> int:
        runs.MAIN = FAKE_MAIN
        return super().__call__(flags)
