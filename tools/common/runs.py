"""Runs as the tools see them: a command line and its run folder, and the contents of finished folders."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from datasets import DATASETS
from trainers import TRAINERS
from trainers.run_path import run_path
from utils.config import FIELDS, REPOSITORY, load_config
from utils.errors import RunError, UserError
from utils.identity import identity, scored_another
from utils.lock import refuse_locked
from utils.replay import METRICS
from utils.settings import Config

MAIN = REPOSITORY / "main_sharpzo.py"
# Settings whose default leaves the choice to the run, which records what it chose.
RESOLVED_PER_RUN = frozenset({"device", "threads", "template", "memory_limit"})


@dataclass(frozen=True)
class Job:
    """One run of main_sharpzo.py by its flags, which are checked when `config` is first read (UserError)."""

    flags: tuple[str, ...]

    @cached_property
    def config(self) -> Config:
        return load_config(list(self.flags), TRAINERS, DATASETS)

    @cached_property
    def path(self) -> Path:
        return run_path(self.config)

    @cached_property
    def log(self) -> Path:
        """Where a sweep writes what the run prints. Not the run folder, which a refused command must not create."""
        root = Path(self.config.output_dir)
        return root / "logs" / self.path.relative_to(root).with_suffix(".log")

    @property
    def is_running(self) -> bool:
        return is_running(self.path)

    @property
    def state(self) -> str:
        """ "finished", "interrupted" (the same command resumes it), "missing", or "other settings": a different run or prompt.

        main_sharpzo.py refuses a run with other settings, naming the difference.
        """
        if not (self.path / "config.yaml").is_file():
            return "missing"
        if self._is_of_another_run():
            return "other settings"
        if not (self.path / "result.json").is_file():
            return "interrupted"
        return "other settings" if scored_another(self.path, self.config) else "finished"

    def _is_of_another_run(self) -> bool:
        ours = identity(self.config.as_dict())
        try:
            there = load_yaml(self.path / "config.yaml")
            # A version that did not have a setting yet used its default.
            theirs = identity({key: field.default for key, field in FIELDS.items()} | there)
        except (OSError, ValueError, TypeError, yaml.YAMLError):
            return True
        # What this command leaves to the run, the existing run has chosen.
        left = {key for key in RESOLVED_PER_RUN if ours[key] == FIELDS[key].default}
        return any(theirs[key] != value for key, value in ours.items() if key not in left)

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(MAIN), *self.flags]


def load_yaml(path: Path) -> Any:
    """What a run's config.yaml holds. The parser in C, where PyYAML has it, takes a tenth of the time of a thousand runs."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506


def is_running(folder: Path) -> bool:
    """Whether another process works on a run folder now."""
    try:
        refuse_locked(folder)
    except RunError:
        return True
    return False


def root_of_run(path: Path, given: str | None) -> str | None:
    """`--root_path`, or what the config.yaml of the run folder `path` names."""
    settings = path / "config.yaml"
    if given is not None or not settings.is_file():
        return given
    return load_yaml(settings).get("root_path")


def root_of(dataset: str, root_path: str | None) -> str | None:
    """`root_path` for a dataset below it, and for a YAML file, which may name any dataset; None for bundled datasets."""
    return root_path if dataset not in DATASETS or DATASETS[dataset].folder else None


def flags_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings as flags of main_sharpzo.py: booleans become --KEY or --no-KEY, None is omitted."""
    flags: list[str] = []
    for key, value in settings.items():
        if isinstance(value, bool):
            flags.append(f"--{key}" if value else f"--no-{key}")
        elif value is not None:
            flags += [f"--{key}", str(value)]
    return tuple(flags)


@dataclass(frozen=True)
class FinishedRun:
    """A finished run folder: its resolved settings, result.json, and env.json."""

    path: Path
    config: dict[str, Any]
    result: dict[str, Any]
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        """The --run_name, or ""."""
        return str(self.config.get("run_name") or "")

    @property
    def torch(self) -> str | None:
        return self.environment.get("packages", {}).get("torch")

    @property
    def computer(self) -> str | None:
        """The GPU or processor that the run used."""
        card = self.environment.get("device", "cpu")
        return self.environment.get("machine", {}).get("processor") if card == "cpu" else card

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict per logged step. Raises UserError if the log cannot be read."""
        try:
            return [json.loads(line) for line in (self.path / METRICS).read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path / METRICS}: cannot be read: {error}") from error

    def curve(self, x: str, y: str) -> tuple[list[float], list[float]]:
        """Values of `y` against `x`, over the steps that logged both. Raises UserError if none did."""
        pairs = [(entry[x], entry[y]) for entry in self.metrics if x in entry and y in entry]
        if not pairs:
            raise UserError(f"{self.path / METRICS}: no step logged {y}; run it with --eval_test")
        return [a for a, _ in pairs], [b for _, b in pairs]


def read_run(path: Path) -> FinishedRun:
    """The finished run in a folder. Raises UserError if its files cannot be read."""
    try:
        result = json.loads((path / "result.json").read_text(encoding="utf-8"))
        config = load_yaml(path / "config.yaml")
        env = path / "env.json"
        environment = json.loads(env.read_text(encoding="utf-8")) if env.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a finished run: {error}") from error
    if not isinstance(result, dict) or not isinstance(config, dict) or not isinstance(environment, dict):
        raise UserError(f"{path}: not a finished run: config.yaml, result.json and env.json must hold mappings")
    return FinishedRun(path, config, result, environment)


def find_runs(roots: Sequence[Path]) -> tuple[list[FinishedRun], list[Path]]:
    """Finished runs below `roots` in path order, and folders of unfinished ones. Raises UserError for a missing root."""
    finished, unfinished = [], []
    for folder in run_folders(roots):
        if (folder / "result.json").is_file():
            finished.append(read_run(folder))
        else:
            unfinished.append(folder)
    return finished, unfinished


def run_folders(roots: Sequence[Path]) -> Iterator[Path]:
    """Every folder below `roots` with a config.yaml, once, in order. Raises UserError for a root that does not exist."""
    seen: set[Path] = set()
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder")
        for path in sorted(root.rglob("config.yaml")):
            if path.parent not in seen:
                seen.add(path.parent)
                yield path.parent
