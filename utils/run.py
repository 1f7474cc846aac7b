"""The run folder: where it lies, whether it may be used, and the files that a run leaves in it."""

from __future__ import annotations

import contextlib
import shutil
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from utils.documents import read_yaml
from utils.errors import RunError, UserError, shortened
from utils.files import with_filename, write_all, write_json, write_text
from utils.identity import fingerprint, identity, scored_another
from utils.lock import LOCK, lock
from utils.provenance import changed_versions, environment
from utils.replay import CHECKPOINT, EXTRAS, LOSSES, METRICS, PREVIOUS_CHECKPOINT, Checkpoint, ReplayLog, discard, find_checkpoint
from utils.settings import Config

OWN_FILES = frozenset(
    {"config.yaml", "env.json", "log.txt", "split.json", "prompt.safetensors", "result.json"}
    | {LOCK, METRICS, LOSSES, CHECKPOINT, PREVIOUS_CHECKPOINT, *EXTRAS}
)


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


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return shortened(repr(settings.get(key)))


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
                self.progress = ReplayLog(path, fingerprint(config), kept)
            except OSError as error:
                raise _unwritable(path, error) from error
            self._files.callback(self.progress.close)
            for line in refused:
                self.log(f"warning: {line}")
            if kept:
                self.log(f"{path}: an earlier run was interrupted; going on from step {kept.step}")
                if changed := changed_versions(path):
                    begun = ", ".join(changed)
                    self.log(
                        f"warning: it was begun with {begun}; its points so far are compared, results from here on may differ"
                    )
            elif earlier == "unfinished":
                self.log(f"{path}: an earlier run did not finish; starting over")
            # all went well: they are closed when the run ends
            self._files = self._files.pop_all()

    def _take_over(self, config: Config) -> tuple[str, Checkpoint | None, list[str]]:
        """Locks the folder. What `find_earlier_run` says of it, and what `find_checkpoint` does."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._files.enter_context(lock(self.path))
        except OSError as error:
            raise _unwritable(self.path, error) from error
        earlier = find_earlier_run(self.path, config)
        if earlier == "finished":
            raise RunError(f"{self.path}: another process has finished this run")
        kept, refused = find_checkpoint(self.path, fingerprint(config)) if earlier == "unfinished" else (None, [])
        if kept and refused:
            # so that it does not become the previous state
            (self.path / CHECKPOINT).unlink(missing_ok=True)
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

    def log(self, text: str) -> None:
        # without a standard output there is nothing to print to
        if sys.stdout is not None:
            with with_filename("standard output"):
                tqdm.write(text)
                sys.stdout.flush()
        write_all(self._log, f"{text}\n".encode(errors="backslashreplace"), self.path / "log.txt")

    def finish(self, result: dict[str, Any]) -> None:
        """Writes result.json, which is what a finished run is known by, and removes what only an unfinished one needs."""
        write_json(self.path / "result.json", result)
        remove_checkpoint(self.path)


def remove_checkpoint(path: Path) -> None:
    """Removes what only an unfinished run needs from the folder of a finished one."""
    discard(path)
    if (path / LOCK).exists():
        (path / LOCK).unlink(missing_ok=True)


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
