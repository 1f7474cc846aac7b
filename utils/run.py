"""The run folder: where it lies, whether it may be used, and the files that a run leaves in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import yaml
from tqdm import tqdm

from utils.config import REPOSITORY
from utils.documents import read_yaml
from utils.errors import RunError, UserError, shortened
from utils.files import naming, sha256, write_all, write_json, write_text
from utils.progress import ANSWERS, EXTRAS, METRICS, PREVIOUS, STATE, Mark, Progress, discard, find_kept
from utils.settings import NOT_IDENTITY, PATHS, Config

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


def evaluation_name(trainer: str, source: str, classes: str) -> str:
    """--run_name of an evaluation: "bbt-from-digits", and "bbt-from-digits-new" on the new classes."""
    return f"{trainer}-from-{source}" + (f"-{classes}" if classes != "all" else "")


def find_earlier_run(path: Path, config: Config) -> str:
    """What the run folder holds: "nothing", an "unfinished" or a "finished" run of this very configuration.

    Raises UserError, unless `--overwrite` is given, where it holds a run of another configuration (naming the keys) or of
    another content of `--load_prompt`, and in any case where it holds something that no run wrote.
    """
    try:
        entries = list(path.iterdir()) if path.is_dir() else []
        there = path.exists()
    except OSError as error:
        raise UserError(f"--output_dir: {path}: cannot be read: {error.strerror or error}") from error
    if there and (not path.is_dir() or path.is_symlink()):
        raise UserError(f"{path}: exists and is no folder of its own; choose another --output_dir or --run_name")
    own = [entry for entry in entries if is_own(entry)]
    odd = next((entry for entry in own if _is_odd(entry)), None)
    if odd:
        raise UserError(f"{odd}: no plain file; remove it, or choose another --output_dir or --run_name")
    if all(entry.name == LOCK for entry in entries):
        return "nothing"
    complete = (path / "config.yaml").exists()
    if not complete and len(own) < len(entries):
        raise UserError(f"{path}: exists and is no run folder (it has no config.yaml); choose another --output_dir or --run_name")
    if config.overwrite:
        return "nothing"
    # without: a run that was killed while it made or removed its folder
    return _compare(path, config) if complete else "unfinished"


def is_own(entry: Path) -> bool:
    """Whether a run writes a file of this name."""
    return entry.name.removesuffix(".tmp") in OWN_FILES


def _is_odd(entry: Path) -> bool:
    """What a run writes through a link would land elsewhere, and a pipe would be waited for."""
    try:
        return not stat.S_ISREG(entry.lstat().st_mode)
    except FileNotFoundError:
        # another process at work here has just removed or renamed it
        return False


def _compare(path: Path, config: Config) -> str:
    try:
        earlier = {key: entry.value for key, entry in read_yaml(path / "config.yaml").items()}
    except UserError as error:
        raise UserError(f"{error}; add --overwrite to replace the run") from error
    ours, theirs = identity(config.as_dict()), identity(earlier)
    different = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
    if different:
        keys = ", ".join(f"{key} ({_shown(theirs, key)} there, {_shown(ours, key)} now)" for key in different[:8])
        more = f" and {len(different) - 8} more" if len(different) > 8 else ""
        raise UserError(
            f"{path}: holds a run with other settings: {keys}{more}; use --run_name NAME, or --overwrite to replace it"
        )
    if not (path / "result.json").exists():
        return "unfinished"
    if scored_another(path, config):
        raise UserError(f"{path}: scored another prompt than {config.load_prompt} holds now; --overwrite scores this one")
    return "finished"


def scored_another(path: Path, config: Config) -> bool:
    """Whether the finished run in `path` scored a `--load_prompt` whose content has changed since.

    A prompt that is gone cannot be told from the one that was scored.
    """
    prompt = Path(config.load_prompt or "")
    if not config.load_prompt or not prompt.is_file():
        return False
    try:
        scored = json.loads((path / "result.json").read_text(encoding="utf-8"))["prompt_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return scored != sha256(prompt)


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return shortened(repr(settings.get(key)))


def fingerprint(config: Config) -> str:
    """SHA-256 of the settings that decide what a run computes: whose the kept answers are."""
    return hashlib.sha256(json.dumps(identity(config.as_dict()), sort_keys=True).encode()).hexdigest()


def identity(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what a run computes; a path is the same file however it is written."""
    kept = {key: value for key, value in settings.items() if key not in NOT_IDENTITY}
    return kept | {key: str(Path(kept[key]).absolute()) for key in PATHS if kept.get(key) and isinstance(kept[key], str)}


def environment() -> dict[str, Any]:
    """Versions, commit and machine, for env.json."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "packages": package_versions(),
        "commit": _commit(),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
    }


def package_versions() -> dict[str, str | None]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def changed_versions(path: Path) -> list[str]:
    """The packages and the commit that the run at `path` was begun with and that are others now, as its env.json has them."""
    try:
        env = json.loads((path / "env.json").read_text(encoding="utf-8"))
        begun = {**env["packages"], "commit": env["commit"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []
    current = package_versions() | {"commit": _commit()}
    return [f"{name} {shortened(str(begun.get(name)))}" for name, now in current.items() if begun.get(name) != now]


def _commit() -> str | None:
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


class Run:
    """The files of a run in progress, behind a lock that dies with the process.

    `say` prints a line and keeps it in log.txt. `progress` holds metrics.jsonl, and goes on from what an interrupted run of this
    very configuration kept, if there is one.
    """

    def __init__(self, path: Path, config: Config, device: str):
        """Makes the folder, or takes over an unfinished run's. `device`: the card's name, for env.json.

        Raises RunError where another process works in the folder or has meanwhile finished the run.
        """
        self.path = path
        # without the name of the YAML that it came from, the file is itself a YAML that --config takes
        settings = {key: value for key, value in config.as_dict().items() if key != "config"}
        self._files = contextlib.ExitStack()
        with self._files:
            earlier, kept, refused = self._take_over(config)
            if kept is None:
                self._make(settings, device, everything=config.overwrite)
            try:
                self._log = self._files.enter_context((path / "log.txt").open("ab", buffering=0))
                self.progress = Progress(path, fingerprint(config), kept)
            except OSError as error:
                raise _unwritable(path, error) from error
            self._files.callback(self.progress.close)
            for line in refused:
                self.say(f"warning: {line}")
            if kept:
                self.say(f"{path}: an earlier run was interrupted; going on from step {kept.step}")
                if changed := changed_versions(path):
                    begun = ", ".join(changed)
                    self.say(
                        f"warning: it was begun with {begun}; its points so far are compared, results from here on may differ"
                    )
            elif earlier == "unfinished":
                self.say(f"{path}: an earlier run did not finish; starting over")
            # all went well: they are closed when the run ends
            self._files = self._files.pop_all()

    def _take_over(self, config: Config) -> tuple[str, Mark | None, list[str]]:
        """Locks the folder. What `find_earlier_run` says of it, and what `find_kept` does."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._files.enter_context(lock(self.path))
        except OSError as error:
            raise _unwritable(self.path, error) from error
        earlier = find_earlier_run(self.path, config)
        if earlier == "finished":
            raise RunError(f"{self.path}: another process has finished this run")
        kept, refused = find_kept(self.path, fingerprint(config)) if earlier == "unfinished" else (None, [])
        if kept and refused:
            # so that it does not become the previous state
            (self.path / STATE).unlink(missing_ok=True)
        return earlier, kept, refused

    def _make(self, settings: dict[str, Any], device: str, everything: bool) -> None:
        """A folder that holds nothing that a run wrote but the settings; none where that cannot be written."""
        try:
            _empty(self.path, everything)
            write_text(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
            write_json(self.path / "env.json", environment() | {"device": device})
        except OSError as error:
            with contextlib.suppress(OSError):
                _empty(self.path)
                (self.path / LOCK).unlink()
                self.path.rmdir()
            raise _unwritable(self.path, error) from error

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *reason: object) -> None:
        self._files.__exit__(*reason)

    def say(self, text: str) -> None:
        # without a standard output there is nothing to print to
        if sys.stdout is not None:
            with naming("standard output"):
                tqdm.write(text)
                sys.stdout.flush()
        write_all(self._log, f"{text}\n".encode(errors="backslashreplace"), self.path / "log.txt")

    def finish(self, result: dict[str, Any]) -> None:
        """Writes result.json, which is what a finished run is known by, and removes what only an unfinished one needs."""
        write_json(self.path / "result.json", result)
        tidy(self.path)


def tidy(path: Path) -> None:
    """Removes what only an unfinished run needs from the folder of a finished one."""
    discard(path)
    if (path / LOCK).exists():
        (path / LOCK).unlink(missing_ok=True)


def lock(path: Path) -> TextIO:
    """Locks a run folder until the file that is returned is closed, or the process ends. Raises RunError where it is locked.

    A POSIX record lock: the system drops it with its owner, and no child process inherits it.
    """
    file = (path / LOCK).open("a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # a lock file that its owner has removed meanwhile keeps nobody out
        if not os.path.samestat(os.fstat(file.fileno()), (path / LOCK).stat()):
            raise FileNotFoundError
    except OSError as error:
        file.close()
        if isinstance(error, FileNotFoundError) or error.errno in (errno.EACCES, errno.EAGAIN):
            raise RunError(f"{path}: another process is at work on this run") from None
        raise
    return file


def refuse_locked(path: Path) -> None:
    """Raises RunError where another process is at work in the run folder, if there is one; takes no lock."""
    if (path / LOCK).is_file():
        lock(path).close()


def _empty(path: Path, everything: bool = False) -> None:
    """Removes what runs wrote, or everything; first what says that a run is finished, so that half never passes for a whole."""
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name != "result.json"):
        if entry.name == LOCK or not (everything or is_own(entry)):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"--output_dir: {path}: cannot be written: {error.strerror or error}")
