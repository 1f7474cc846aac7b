"""Short whole runs and what they leave."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

TINY = {"intrinsic_dim": 4, "popsize": 4, "total_steps": 6, "change_point": 3, "prune_interval": 2, "eval_every": 2}


FLAGS = [text for key, value in TINY.items() for text in (f"--{key}", str(value))]


# a flag overrides earlier ones, so tests append what they change
FEW = [*FLAGS, "--shots", "1", "--total_steps", "2", "--change_point", "1"]


EUROSAT_CLASSES = ("AnnualCrop", "Forest", "River")


class Outcome:
    """The exit status and output of one call of `main`, and the run folder it was to write."""

    def __init__(self, status: int, out: str, err: str, path: Path):
        self.status, self.out, self.err, self.path = status, out, err, path

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.path / "result.json").read_text())

    @property
    def config(self) -> dict[str, Any]:
        return yaml.safe_load((self.path / "config.yaml").read_text())

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    @property
    def untimed_metrics(self) -> list[dict[str, Any]]:
        return [{key: value for key, value in entry.items() if "seconds" not in key} for entry in self.metrics]

    @property
    def log(self) -> list[str]:
        return (self.path / "log.txt").read_text().splitlines()

    @property
    def split(self) -> dict[str, list]:
        return json.loads((self.path / "split.json").read_text())

    @property
    def prompt(self) -> bytes:
        return (self.path / "prompt.safetensors").read_bytes()

    def assert_refused(self, *named: str) -> None:
        assert self.status == 2
        assert re.fullmatch(r"error: [^\n]+\n", self.err)
        for text in named:
            assert text in self.err


Call = Callable[..., Outcome]


def eurosat_flags(root: Path, *more: str) -> list[str]:
    return ["--config", "configs/eurosat.yaml", "--root_path", str(root), "--backbone", "Mini", *FEW, *more]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below `folder`: its bytes and when it was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def drawn_images(root: Path, part: str) -> Iterator[Path]:
    split = json.loads((root / "eurosat" / "split_zhou_EuroSAT.json").read_text())
    return (root / "eurosat" / "2750" / path for path, _, _ in split[part])
