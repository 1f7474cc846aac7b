"""Checkpoints as a replay log: every loss the optimizer received, so that a restarted run can feed them back.

An optimizer is a deterministic function of its settings and the losses it receives, so those losses are its whole state, pycma's
included. They are appended to losses.bin, as log entries are to metrics.jsonl. checkpoint.json records how many bytes of both
belong to the last saved step, and checkpoint.previous.json those of the save before; anything beyond was left by an interrupted
step and is truncated. A running SHA-256 over all queries and their inputs shows whether the recorded losses still match them.
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
# what an unfinished run of an earlier version has instead
FORMER_FILES = ("answers.bin", "state.json", "state.previous.json")
FORMAT = 4


@dataclass(frozen=True)
class Checkpoint:
    """The end of a step: how many bytes of each file belong to it, with their SHA-256, and seconds and costs until then.

    `inputs_sha256`: of everything that the losses so far depend on besides the settings (see `ReplayLog.hash_input`).
    """

    step: int
    files: dict[str, tuple[int, str]]
    inputs_sha256: str
    seconds: float = 0.0
    costs: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError if a checkpoint that was read is not valid."""
        counts = [self.step, *(size for size, _ in self.files.values()), *self.costs.values()]
        if not all(type(count) is int and 0 <= count < 1 << 62 for count in counts) or not self.seconds >= 0:
            raise ValueError("invalid counters")
        if not {LOSSES, METRICS} <= set(self.files) <= {LOSSES, METRICS, *EXTRAS}:
            raise ValueError("unexpected file list")


class AppendOnlyFile:
    """A file that only grows. Opening it truncates it to its first `size` bytes."""

    def __init__(self, path: Path, size: int):
        self.path = path
        path.touch()
        self._file = path.open("r+b", buffering=0)
        self._digest = hashlib.sha256(self._file.read(size))
        self._file.truncate(size)
        self._file.seek(size)
        self.bytes = size

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
    """Replays the losses of an interrupted run, if any, then records new ones (a `Ledger`).

    `checkpoint` ends a step, `save` puts the last one on disk.
    """

    def __init__(self, folder: Path, settings_sha256: str, resumed: Checkpoint | None = None):
        """`settings_sha256`: of the settings that the losses belong to. `resumed`: from `find_checkpoint`."""
        self.folder, self.settings_sha256, self.resumed = folder, settings_sha256, resumed
        sizes = {name: resumed.files[name][0] if resumed else 0 for name in (LOSSES, METRICS)}
        self._losses, self._metrics = (AppendOnlyFile(folder / name, sizes[name]) for name in (LOSSES, METRICS))
        self._recorded = np.fromfile(folder / LOSSES, dtype="<f8")
        self._inputs = hashlib.sha256()
        self._cursor = 0
        self._pending: list[np.ndarray] = []
        self._extras: Mapping[str, np.ndarray] = {}
        self._last, self._saved = resumed, resumed

    @property
    def replaying(self) -> bool:
        return self._cursor < len(self._recorded)

    @property
    def recorded(self) -> np.ndarray:
        """All losses of the interrupted run."""
        return self._recorded

    @property
    def last_step(self) -> int | None:
        """The last complete step, or None before step 0."""
        return self._last.step if self._last else None

    def hash_input(self, *parts: np.ndarray | bytes) -> None:
        """Adds to the digest what is queried, or what the losses depend on besides the settings."""
        for part in parts:
            self._inputs.update(part if isinstance(part, bytes) else part.tobytes())

    def query(self, points: np.ndarray, size: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """`size` numbers at `points`: the recorded ones while there are any, then those of `compute`.

        Raises RunError if fewer are recorded, which then do not belong to this run.
        """
        self.hash_input(points)
        if self.replaying:
            values = self._recorded[self._cursor : self._cursor + size]
            self._cursor += size
            if len(values) != size:
                raise self._mismatch()
            return values.copy()
        values = np.ascontiguousarray(compute(), dtype="<f8")
        self._pending.append(values)
        return values

    def verify(self) -> None:
        """Raises RunError if the queries so far are not those that the recorded losses belong to."""
        if self.replaying or self.resumed is None or self._inputs.hexdigest() != self.resumed.inputs_sha256:
            raise self._mismatch()

    def _mismatch(self) -> RunError:
        return RunError(
            f"{self.folder}: cannot resume: code, packages, weights, data or machine changed since the run was interrupted "
            "(env.json has commit and versions). Restore them to resume, or start a new run under another --run_name"
        )

    def record(self, entry: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        self._metrics.add((json.dumps(entry, allow_nan=False) + "\n").encode())

    def checkpoint(self, step: int, seconds: float, costs: dict[str, int], extras: Mapping[str, np.ndarray]) -> None:
        """Notes that `step` is complete. `extras`: state beyond the losses (see Objective.extras), as copies."""
        if self._pending:
            self._losses.add(b"".join(values.tobytes() for values in self._pending))
            self._pending.clear()
        files = {LOSSES: self._losses.so_far(), METRICS: self._metrics.so_far()}
        self._last, self._extras = Checkpoint(step, files, self._inputs.hexdigest(), seconds, costs), extras

    def save(self) -> None:
        """Puts the last complete step on disk; the checkpoint before it becomes the previous one."""
        if self._last is None or self._last == self._saved:
            return
        self._losses.sync()
        self._metrics.sync()
        checkpoint = asdict(self._last)
        if self._extras:
            from safetensors.numpy import save

            # the two files alternate, so that the previous checkpoint still has its own
            name = EXTRAS[0] if self._saved is None or EXTRAS[0] not in self._saved.files else EXTRAS[1]
            content = save(dict(self._extras))
            write_bytes(self.folder / name, content)
            checkpoint["files"] |= {name: (len(content), hashlib.sha256(content).hexdigest())}
            self._last = Checkpoint(**checkpoint)
        document = {"format": FORMAT, "settings_sha256": self.settings_sha256, "checkpoint": checkpoint}
        signed = document | {"sha256": _digest_of(document)}
        write_json(self.folder / CHECKPOINT, signed, previous=self.folder / PREVIOUS_CHECKPOINT)
        self._saved = self._last

    def extras(self) -> dict[str, np.ndarray]:
        """What `checkpoint` was given as extras at the step that is resumed."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        names = [name for name in EXTRAS if self.resumed and name in self.resumed.files]
        try:
            return load_file(self.folder / names[0]) if names else {}
        except SafetensorError as error:
            raise RunError(
                f"{self.folder / names[0]}: cannot resume: not a file of a run ({error}); restore it, or use another --run_name"
            ) from None

    def close(self) -> None:
        self._losses.close()
        self._metrics.close()


def discard(folder: Path) -> None:
    """Removes what only an unfinished run needs."""
    for name in (LOSSES, CHECKPOINT, PREVIOUS_CHECKPOINT, *EXTRAS, *FORMER_FILES):
        for path in (folder / name, folder / f"{name}.tmp"):
            # a read-only folder is fine where there is nothing to remove
            if path.exists():
                path.unlink(missing_ok=True)


def find_checkpoint(folder: Path, settings_sha256: str) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint in a run folder, or None; and a line for each invalid one, with the reason."""
    refused: list[str] = []
    for name in (CHECKPOINT, PREVIOUS_CHECKPOINT):
        path = folder / name
        if not path.exists():
            continue
        try:
            return _read(path, settings_sha256), refused
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            refused.append(f"{path}: ignored: {error or type(error).__name__}")
    return None, refused


def _read(path: Path, settings_sha256: str) -> Checkpoint:
    """Raises ValueError and its like for a checkpoint that is torn, foreign, or does not match its files."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError("unsupported checkpoint version")
    if _digest_of({key: value for key, value in document.items() if key != "sha256"}) != document["sha256"]:
        raise ValueError("checksum mismatch")
    if document["settings_sha256"] != settings_sha256:
        raise ValueError("it belongs to a run with other settings")
    checkpoint = Checkpoint(**document["checkpoint"])
    for name, (size, expected) in checkpoint.files.items():
        with (path.parent / name).open("rb") as file:
            content = file.read(size) if size <= os.fstat(file.fileno()).st_size else b""
        if len(content) != size or hashlib.sha256(content).hexdigest() != expected:
            raise ValueError(f"checksum mismatch in {name}")
        if name == LOSSES and not np.isfinite(np.frombuffer(content, "<f8")).all():
            raise ValueError(f"non-finite loss in {name}")
    return checkpoint


def _digest_of(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
