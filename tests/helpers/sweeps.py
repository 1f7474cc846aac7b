"""Sweeps whose runs are faked (fake_main.py), for tests of the sweep and its runner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import sweep
from tools.common import runs
from tools.common.names import OURS
from utils.config import REPOSITORY

DIGITS = ("--datasets", "digits", "--methods", OURS, "--backbones", "Mini")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs are faked; the file that is returned has a line for each call."""
    monkeypatch.setattr(runs, "MAIN", REPOSITORY / "tests" / "helpers" / "fake_main.py")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "calls"


def swept(tmp_path: Path, *argv: str) -> int:
    return sweep.main([*DIGITS, "--output_dir", str(tmp_path / "out folder"), *argv])


def seeds(calls: Path) -> list[str]:
    argv = [json.loads(line)["argv"] for line in calls.read_text().splitlines()]
    return sorted(flags[flags.index("--seed") + 1] for flags in argv)
