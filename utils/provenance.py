"""Versions, commit and machine of a run, for env.json."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from utils.config import REPOSITORY
from utils.errors import shortened

PACKAGES = ("torch", "torchvision", "open_clip_torch", "cma", "numpy", "scikit-learn", "pillow", "safetensors")


def environment() -> dict[str, Any]:
    """Versions, commit and machine, for env.json."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "packages": package_versions(),
        "commit": source_version(),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
    }


def package_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def changed_versions(path: Path) -> list[str]:
    """The packages and the commit in the env.json of the run at `path` that differ from the current ones."""
    try:
        env = json.loads((path / "env.json").read_text(encoding="utf-8"))
        started = {**env["packages"], "commit": env["commit"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []
    current = package_versions() | {"commit": source_version()}
    return [f"{name} {shortened(str(started.get(name)))}" for name, now in current.items() if started.get(name) != now]


def source_version() -> str | None:
    """The commit of the clone that runs; None without git."""
    return _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
