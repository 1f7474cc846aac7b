"""The run folder: whether it may be used, and the files that a run leaves in it."""

from __future__ import annotations

import contextlib
import json
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from utils.documents import read_yaml
from utils.errors import RunError, UserError, shortened
from utils.files import json_by_line, write_json, write_text
from utils.identity import fingerprint, identity, scored_another
from utils.lock import LOCK, lock
from utils.log import logging_to
from utils.loggers import EVENTS, WANDB_FOLDER, WANDB_ID
from utils.provenance import changed_versions, environment
from utils.replay import (
    CHECKPOINT,
    EXTRAS,
    FORMER_FILES,
    LOSSES,
    METRICS,
    PREVIOUS_CHECKPOINT,
    Checkpoint,
    ReplayLog,
    discard,
    find_checkpoint,
)
from utils.setting_kinds import PATHS
from utils.settings import Config

RUN_FILES = frozenset(
    {"config.yaml", "env.json", "log.txt", "split.json", "prompt.safetensors", "result.json"}
    | {LOCK, METRICS, LOSSES, CHECKPOINT, PREVIOUS_CHECKPOINT, *EXTRAS, *FORMER_FILES, "confusion.csv", "confusion.png", WANDB_ID}
)


def find_earlier_run(path: Path, config: Config) -> str:
    """What the run folder holds: "nothing", an "unfinished" or a "finished" run of this configuration, or one that "finished
    elsewhere": with data or weights from other paths, whose content is still to be compared (`utils.inputs`).

    Raises UserError, unless `--overwrite` is given, where it holds a run of another configuration (naming the keys), of the
    former version, or of another content of `--load_prompt`; and in any case where it holds something that no run wrote.
    """
    try:
        entries = list(path.iterdir()) if path.is_dir() else []
        exists = path.exists()
    except OSError as error:
        raise UserError(f"--output_dir: {path}: cannot be read: {error.strerror or error}") from error
    if exists and (not path.is_dir() or path.is_symlink()):
        raise UserError(f"{path}: exists and is not a regular folder; choose another --output_dir or --run_name")
    run_files = [entry for entry in entries if is_run_file(entry)]
    irregular = next((entry for entry in run_files if _is_irregular(entry)), None)
    if irregular:
        raise UserError(f"{irregular}: not a regular file; remove it, or choose another --output_dir or --run_name")
    if all(entry.name == LOCK for entry in entries):
        return "nothing"
    complete = (path / "config.yaml").exists()
    if not complete and len(run_files) < len(entries):
        raise UserError(f"{path}: exists and is not a run folder (no config.yaml); choose another --output_dir or --run_name")
    if config.overwrite:
        return "nothing"
    # without config.yaml: a run that was killed while it made or removed its folder
    return _compare(path, config) if complete else "unfinished"


def is_run_file(entry: Path) -> bool:
    """Whether a run writes a file of this name."""
    name = entry.name.removesuffix(".tmp")
    return name in RUN_FILES or name.startswith(EVENTS) or _is_wandbs(entry)


def _is_wandbs(entry: Path) -> bool:
    """Whether it is the folder that Weights & Biases makes in a run folder."""
    return entry.name == WANDB_FOLDER and entry.is_dir() and not entry.is_symlink()


def _is_irregular(entry: Path) -> bool:
    """Whether it is a link, through which a run would write elsewhere, or a pipe, on which it would wait."""
    try:
        return not (stat.S_ISREG(entry.lstat().st_mode) or _is_wandbs(entry))
    except FileNotFoundError:
        # another process has just removed or renamed it
        return False


def _compare(path: Path, config: Config) -> str:
    try:
        earlier = {key: entry.value for key, entry in read_yaml(path / "config.yaml").items()}
    except UserError as error:
        raise UserError(f"{error}; add --overwrite to replace the run") from error
    finished = (path / "result.json").exists()
    ours, theirs = identity(config.as_dict()), identity(earlier)
    # data and weights are compared by content, once they are loaded
    different = [key for key in ours if ours[key] != theirs[key] and key not in PATHS]
    if different:
        raise UserError(_other_settings(path, different, theirs, ours, finished))
    if not finished:
        if any((path / name).exists() for name in FORMER_FILES):
            raise UserError(
                f"{path}: holds an unfinished run of a former version, which this one cannot resume; finish it with the commit "
                "in its env.json, use another --run_name, or replace it with --overwrite"
            )
        return "unfinished"
    if scored_another(path, config):
        raise UserError(f"{path}: scored another prompt than {config.load_prompt} holds now; --overwrite scores this one")
    moved = [key for key in PATHS if ours[key] != theirs[key] and key != "load_prompt"]
    return "finished elsewhere" if moved else "finished"


def _other_settings(path: Path, keys: list[str], theirs: Mapping[str, Any], ours: Mapping[str, Any], finished: bool) -> str:
    shown = ", ".join(f"{key} ({_shown(theirs, key)} in that run, {_shown(ours, key)} now)" for key in keys[:8])
    more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
    if finished:
        return f"{path}: holds a run with other settings: {shown}{more}; use --run_name NAME, or --overwrite to replace it"
    # replacing it would lose its steps
    plain = [key for key in keys if isinstance(theirs[key], int | float | str) and not isinstance(theirs[key], bool)]
    flags = " ".join(f"--{key} {theirs[key]}" for key in plain)
    resume = f"add {flags} to resume it, or " if flags and len(plain) == len(keys) <= 3 else ""
    return f"{path}: holds an unfinished run with other settings: {shown}{more}; {resume}use --run_name NAME for a new one"


def read_result(path: Path) -> dict[str, Any]:
    """The result of a finished run; empty if its file is damaged."""
    try:
        result = json.loads((path / "result.json").read_text(encoding="utf-8"))
        return dict(result) | {key: float(result[key]) for key in ("test_accuracy", "zero_shot_accuracy")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return shortened(repr(settings.get(key)))


class Run:
    """The files of a run in progress, guarded by a lock that dies with the process.

    `log` prints a line and appends it to log.txt. `replay` holds the metrics and the losses, and resumes an interrupted run of
    this configuration, if there is one.
    """

    def __init__(self, path: Path, config: Config, facts: Mapping[str, Any]):
        """Makes the folder, or takes over an unfinished run's. `facts`: more lines of env.json.

        Raises RunError if another process works in the folder or has meanwhile finished the run.
        """
        self.path = path
        # without the setting `config`, config.yaml is itself a file for --config
        settings = {key: value for key, value in config.as_dict().items() if key != "config"}
        self._files = contextlib.ExitStack()
        with self._files:
            earlier, checkpoint, ignored = self._take_over(config)
            if checkpoint is None:
                self._make(settings, facts, everything=config.overwrite)
            try:
                self._logger = self._files.enter_context(logging_to(path / "log.txt"))
                self.replay = ReplayLog(path, fingerprint(config), checkpoint)
            except OSError as error:
                raise _unwritable(path, error) from error
            self._files.callback(self.replay.close)
            if not self._locked:
                self.log(f"warning: {path}: this file system has no locks; do not start this run in two processes")
            for line in ignored:
                self.log(f"warning: {line}")
            if checkpoint:
                self._log_resumption(checkpoint)
            elif earlier == "unfinished":
                self.log(f"{path}: an earlier run did not finish and left no valid checkpoint; starting over")
            # from here on the run closes them
            self._files = self._files.pop_all()

    def _log_resumption(self, checkpoint: Checkpoint) -> None:
        self.log(f"{self.path}: an earlier run was interrupted; resuming after step {checkpoint.step}")
        if changed := changed_versions(self.path):
            self.log(
                f"warning: the run started with {', '.join(changed)}; its queries so far are verified, later results may differ"
            )

    def _take_over(self, config: Config) -> tuple[str, Checkpoint | None, list[str]]:
        """Locks the folder; returns the results of `find_earlier_run` and `find_checkpoint`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file, self._locked = lock(self.path)
            self._files.enter_context(file)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        earlier = find_earlier_run(self.path, config)
        if earlier.startswith("finished"):
            raise RunError(f"{self.path}: another process has finished this run")
        checkpoint, ignored = find_checkpoint(self.path, fingerprint(config)) if earlier == "unfinished" else (None, [])
        if checkpoint and ignored:
            # so that the damaged one does not become the previous checkpoint
            (self.path / CHECKPOINT).unlink(missing_ok=True)
        return earlier, checkpoint, ignored

    def _make(self, settings: dict[str, Any], facts: Mapping[str, Any], everything: bool) -> None:
        """Empties the folder and writes the settings; removes the folder where they cannot be written."""
        try:
            _empty(self.path, everything)
            write_text(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
            write_json(self.path / "env.json", environment() | dict(facts))
        except OSError as error:
            with contextlib.suppress(OSError):
                _empty(self.path)
                (self.path / LOCK).unlink()
                self.path.rmdir()
            raise _unwritable(self.path, error) from error

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *reason: object) -> None:
        self._files.close()

    def log(self, text: str) -> None:
        self._logger.info("%s", text)

    def finish(self, result: dict[str, Any]) -> None:
        """Writes result.json, which marks the run as finished, and removes what only an unfinished one needs."""
        write_text(self.path / "result.json", json_by_line(result))
        remove_checkpoint(self.path)


def remove_checkpoint(path: Path) -> None:
    """Removes what only an unfinished run needs from the folder of a finished one."""
    discard(path)
    if (path / LOCK).exists():
        (path / LOCK).unlink(missing_ok=True)


def _empty(path: Path, everything: bool = False) -> None:
    """Removes what runs wrote, or everything; result.json first, so that a half-removed run never passes for a finished one."""
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name != "result.json"):
        if entry.name == LOCK or not (everything or is_run_file(entry)):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"--output_dir: {path}: cannot be written: {error.strerror or error}")
