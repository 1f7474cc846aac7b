"""Checkpoints as a replay log: every loss the optimizer received, so that a restarted run can feed them back.

An optimizer is a deterministic function of its settings and the losses it receives, so those losses are its whole state, pycma's
included. They are appended to losses.bin, as log entries are to metrics.jsonl. checkpoint.json records how many bytes of both
belong to the last saved step, and checkpoint.previous.json those of the save before; anything beyond was left by an interrupted
step and is truncated. A running SHA-256 over all queries and their inputs tells whether the recorded losses still match them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import RunError
from utils.files import with_filename, write_all, write_bytes, write_json

LOSSES, METRICS, CHECKPOINT, PREVIOUS_CHECKPOINT = "losses.bin", "metrics.jsonl", "checkpoint.json", "checkpoint.previous.json"
EXTRAS = ("extras.0.safetensors", "extras.1.safetensors")
FORMAT = 3


@dataclass(frozen=True)
class Checkpoint:
    """The end of a step. `files`: how many bytes of each file belong to it, and their SHA-256; seconds and costs by then.

    `asked`: SHA-256 of all that was asked until then.
    """

    step: int
    files: dict[str, tuple[int, str]]
    asked: str
    seconds: float = 0.0
    costs: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError where a mark that was read is none."""
        counts = [self.step, *(size for size, _ in self.files.values()), *self.costs.values()]
        if not all(type(count) is int and 0 <= count < 1 << 62 for count in counts) or not self.seconds >= 0:
            raise ValueError("its numbers are none that a run counts")
        if not {LOSSES, METRICS} <= set(self.files) <= {LOSSES, METRICS, *EXTRAS}:
            raise ValueError("it does not speak of a run's files")


class AppendOnlyFile:
    """A file that is only added to. Opened with `kept` bytes, it loses what lies behind them."""

    def __init__(self, path: Path, kept: int):
        self.path = path
        path.touch()
        self._file = path.open("r+b", buffering=0)
        self._digest = hashlib.sha256(self._file.read(kept))
        self._file.truncate(kept)
        self._file.seek(kept)
        self.bytes = kept

    def add(self, content: bytes) -> None:
        write_all(self._file, content, self.path)
        self._digest.update(content)
        self.bytes += len(content)

    def so_far(self) -> tuple[int, str]:
        return self.bytes, self._digest.hexdigest()

    def sync(self) -> None:
        with with_filename(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class ReplayLog:
    """Repeats the answers that are kept, if any, then records new ones; `mark` ends a step, `save` puts the last one on disk."""

    def __init__(self, folder: Path, owner: str, kept: Checkpoint | None = None):
        """`owner`: a hash of the settings that the answers are of. `kept`: from `find_checkpoint`."""
        self.folder, self.owner, self.kept = folder, owner, kept
        sizes = {name: kept.files[name][0] if kept else 0 for name in (LOSSES, METRICS)}
        self._answers, self._metrics = (AppendOnlyFile(folder / name, sizes[name]) for name in (LOSSES, METRICS))
        self._stored = np.fromfile(folder / LOSSES, dtype="<f8")
        self._asked = hashlib.sha256()
        self._cursor = 0
        self._pending: list[np.ndarray] = []
        self._mark, self._extras, self._saved = kept, {}, kept

    @property
    def replaying(self) -> bool:
        return self._cursor < len(self._stored)

    def hash_input(self, *what: np.ndarray | bytes) -> None:
        """Takes into the digest what is asked, or what its answers depend on besides the settings."""
        for part in what:
            self._asked.update(memoryview(part).tobytes())

    def query(self, asked: np.ndarray, size: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """`size` numbers at the points `asked`: the kept ones while there are any, then those that `compute` gives.

        Raises RunError where fewer are kept, which are then not this run's.
        """
        self.hash_input(asked)
        if self.replaying:
            values = self._stored[self._cursor : self._cursor + size]
            self._cursor += size
            if len(values) != size:
                raise self._foreign()
            return values.copy()
        values = np.ascontiguousarray(compute(), dtype="<f8")
        self._pending.append(values)
        return values

    def verify(self) -> None:
        """Raises RunError where all that was asked so far is not what the kept answers are for."""
        if self.replaying or self._asked.hexdigest() != self.kept.asked:
            raise self._foreign()

    def _foreign(self) -> RunError:
        return RunError(
            f"{self.folder}: its kept answers are for other points than this start asks for, or for other weights or images: "
            "code, packages, --checkpoint, data or machine have changed since; go back to them (env.json has commit and "
            "versions), or --overwrite starts anew"
        )

    def record(self, entry: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        self._metrics.add((json.dumps(entry, allow_nan=False) + "\n").encode())

    def checkpoint(self, step: int, seconds: float, costs: dict[str, int], extras: Mapping[str, np.ndarray]) -> None:
        """Notes that `step` is complete. `extras`: what the answers do not hold (see Objective.extras); copies."""
        if self._pending:
            self._answers.add(b"".join(values.tobytes() for values in self._pending))
            self._pending.clear()
        files = {LOSSES: self._answers.so_far(), METRICS: self._metrics.so_far()}
        self._mark, self._extras = Checkpoint(step, files, self._asked.hexdigest(), seconds, costs), extras

    def save(self) -> None:
        """Puts the last complete step on disk; what was there before becomes the previous state."""
        if self._mark is None or self._mark == self._saved:
            return
        self._answers.sync()
        self._metrics.sync()
        mark = asdict(self._mark)
        if self._extras:
            from safetensors.numpy import save

            # in turn, so that the previous state's own file is still there
            name = EXTRAS[0] if self._saved is None or EXTRAS[0] not in self._saved.files else EXTRAS[1]
            content = save(dict(self._extras))
            write_bytes(self.folder / name, content)
            mark["files"] |= {name: (len(content), hashlib.sha256(content).hexdigest())}
            self._mark = Checkpoint(**mark)
        state = {"format": FORMAT, "owner": self.owner, "checkpoint": mark}
        write_json(self.folder / CHECKPOINT, state | {"sha256": _digest_of(state)}, previous=self.folder / PREVIOUS_CHECKPOINT)
        self._saved = self._mark

    def extras(self) -> dict[str, np.ndarray]:
        """What `mark` was given as extras at the kept step."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        names = [name for name in EXTRAS if self.kept and name in self.kept.files]
        try:
            return load_file(self.folder / names[0]) if names else {}
        except SafetensorError as error:
            raise RunError(f"{self.folder / names[0]}: not what a run keeps ({error}); --overwrite starts anew") from None

    def close(self) -> None:
        self._answers.close()
        self._metrics.close()


def discard(folder: Path) -> None:
    """Removes what only an unfinished run needs."""
    for name in (LOSSES, CHECKPOINT, PREVIOUS_CHECKPOINT, *EXTRAS):
        for path in (folder / name, folder / f"{name}.tmp"):
            # a folder that may not be written is no error where there is nothing to remove
            if path.exists():
                path.unlink(missing_ok=True)


def find_checkpoint(folder: Path, owner: str) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound mark in a run folder, or None; and a line for each that is not sound, saying why."""
    refused = []
    for name in (CHECKPOINT, PREVIOUS_CHECKPOINT):
        path = folder / name
        if not path.exists():
            continue
        try:
            return _read(path, owner), refused
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            refused.append(f"{path}: not used: {error or type(error).__name__}")
    return None, refused


def _read(path: Path, owner: str) -> Checkpoint:
    """Raises ValueError and its like for a state that is torn, foreign, or whose files are not those it speaks of."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError("it is no state of this version")
    if _digest_of({key: value for key, value in document.items() if key != "sha256"}) != document["sha256"]:
        raise ValueError("its checksum does not fit")
    if document["owner"] != owner:
        raise ValueError("it is of a run with other settings")
    mark = Checkpoint(**document["checkpoint"])
    for name, (size, expected) in mark.files.items():
        with (path.parent / name).open("rb") as file:
            content = file.read(size) if size <= os.fstat(file.fileno()).st_size else b""
        if len(content) != size or hashlib.sha256(content).hexdigest() != expected:
            raise ValueError(f"{name} is not what it speaks of")
        if name == LOSSES and not np.isfinite(np.frombuffer(content, "<f8")).all():
            raise ValueError(f"{name} holds what no loss can be")
    return mark


def _digest_of(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
