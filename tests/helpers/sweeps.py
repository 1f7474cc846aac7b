"""Sweeps whose runs are faked (fake_main.py), for tests of the sweep and its runner."""

from __future__ import annotations

import json
from pathlib import Path

from tools import sweep
from tools.common.names import OURS

DIGITS = ("--datasets", "digits", "--methods", OURS, "--backbones", "Mini")


def swept(tmp_path: Path, *argv: str) -> int:
    return sweep.main([*DIGITS, "--output_dir", str(tmp_path / "out folder"), *argv])


def seeds(calls: Path) -> list[str]:
    argv = [json.loads(line)["argv"] for line in calls.read_text().splitlines()]
    return sorted(flags[flags.index("--seed") + 1] for flags in argv)
