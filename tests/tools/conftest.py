"""Fixtures that several test files of the tools share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.common import runs
from utils.config import REPOSITORY


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs are faked; the file that is returned has a line for each call."""
    monkeypatch.setattr(runs, "MAIN", REPOSITORY / "tests" / "helpers" / "fake_main.py")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "calls"
