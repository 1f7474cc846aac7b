"""The run folder: where it lies, whether it may be used, and the files that a run leaves in it."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import yaml
from tqdm import tqdm

from utils.config import REPOSITORY
from utils.errors import RunError, UserError
from utils.files import write_json, write_text
from utils.progress import ANSWERS, EXTRAS, METRICS, PREVIOUS, STATE, Progress, find_kept
from utils.settings import NOT_IDENTITY, Config

PACKAGES = ("torch", "torchvision", "open_clip_torch", "cma", "numpy", "scikit-learn", "pillow", "safetensors")


LOCK = "lock"
OWN_FILES = frozenset(
    {"config.yaml", "env.json", "log.txt", "split.json", "prompt.safetensors", "result.json"}
    | {LOCK, METRICS, ANSWERS, STATE, PREVIOUS, *EXTRAS}
)


def run_path(config: Config) -> Path:
    """OUTPUT_DIR/dataset/trainer/backbone[/run_name]/16shots/seed1."""
    backbone = config.backbone.replace("/", "-")
    variant = [config.run_name] if config.run_name else []
    parts = [config.dataset, config.prompt_trainer, backbone, *variant, f"{config.shots}shots", f"seed{config.seed}"]
    return Path(config.output_dir).joinpath(*parts)


def find_earlier_run(path: Path, config: Config) -> str:
    """What the run folder holds: "nothing", an "unfinished" or a "finished" run of this very configuration.

    Raises UserError, unless `--overwrite` is given, where it holds a run of another configuration (naming the keys), and
    in any case where it holds something that no run wrote.
    """
    if not path.exists() or (path.is_dir() and all(entry.name == LOCK for entry in path.iterdir())):
        return "nothing"
    if not path.is_dir() or path.is_symlink():
        raise UserError(f"{path}: exists and is no folder of its own; choose another --output_dir or --run_name")
    # a run that was killed while it made or removed its folder
    complete = (path / "config.yaml").exists()
    if not complete and all(entry.name.removesuffix(".tmp") in OWN_FILES for entry in path.iterdir()):
        return "unfinished"
    if not (path / "config.yaml").is_file():
        raise UserError(f"{path}: exists and is no run folder (it has no config.yaml); choose another --output_dir or --run_name")
    try:
        earlier = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        earlier, reason = None, error
    else:
        reason = "it is no mapping"
    if config.overwrite:
        return "nothing"
    if not isinstance(earlier, dict):
        raise UserError(f"{path / 'config.yaml'}: cannot be read ({reason}); add --overwrite to replace the run")
    ours = identity(config.as_dict())
    theirs = identity(earlier)
    different = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
    if different:
        keys = ", ".join(f"{key} ({theirs.get(key)!r} there, {ours.get(key)!r} now)" for key in different)
        raise UserError(f"{path}: holds a run with other settings: {keys}; use --run_name NAME, or --overwrite to replace it")
    return "finished" if (path / "result.json").is_file() else "unfinished"


def identity(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what a run computes."""
    return {key: value for key, value in settings.items() if key not in NOT_IDENTITY}


def environment() -> dict[str, Any]:
    """Versions, commit and machine, for env.json."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "packages": versions,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
    }


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


class Run:
    """The files of a run in progress, behind a lock that dies with the process.

    `say` prints a line and keeps it in log.txt. `progress` holds metrics.jsonl, and goes on from what an interrupted run of this
    very configuration kept; `progress.step` is 0 where there is no such run.
    """

    def __init__(self, path: Path, config: Config, device: str):
        """Makes the folder, or takes over an unfinished run's. `device`: the card's name, for env.json.

        Raises RunError where another process works in the folder or has meanwhile finished the run.
        """
        self.path = path
        # without the name of the YAML that it came from, the file is itself a YAML that --config takes
        settings = {key: value for key, value in config.as_dict().items() if key != "config"}
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = lock(path)
            earlier = find_earlier_run(path, config)
            if earlier == "finished":
                raise RunError(f"{path}: another process has finished this run")
            kept, self._refused = find_kept(path) if earlier == "unfinished" else (None, [])
            if kept is None:
                _empty(path)
                write_text(path / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
                write_json(path / "env.json", environment() | {"device": device})
            self._log: TextIO = (path / "log.txt").open("a", encoding="utf-8")
            self.progress = Progress(path, kept)
        except OSError as error:
            raise UserError(f"--output_dir: {path}: cannot be written: {error.strerror or error}") from error
        for line in self._refused:
            self.say(f"warning: {line}")
        if kept:
            self.say(f"{path}: an earlier run was interrupted; going on from step {kept.step}")
        elif earlier == "unfinished":
            self.say(f"{path}: an earlier run did not finish; starting over")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()
        self.progress.close()
        self._lock.close()

    def say(self, text: str) -> None:
        tqdm.write(text)
        self._log.write(text + "\n")
        self._log.flush()

    def finish(self, result: dict[str, Any]) -> None:
        """Writes result.json, which is what a finished run is known by, and removes what only an unfinished one needs."""
        write_json(self.path / "result.json", result)
        self.progress.discard()
        (self.path / LOCK).unlink(missing_ok=True)


def lock(path: Path) -> TextIO:
    """Locks a run folder until the file that is returned is closed, or the process ends. Raises RunError where it is locked.

    A POSIX record lock: the system drops it with its owner, and no child process inherits it.
    """
    file = (path / LOCK).open("a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise RunError(f"{path}: another process is at work on this run") from None
        raise
    return file


def refuse_locked(path: Path) -> None:
    """Raises RunError where another process is at work in the run folder, if there is one; takes no lock."""
    if (path / LOCK).is_file():
        lock(path).close()


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
