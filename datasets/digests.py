"""SHA-256 of image files, stored by the file's size, times and inode, so that an unchanged file is not read again.

Features are cached by content: a copy of the data in another folder finds them, a changed file never does. Reading every
file once costs no more than decoding it. A digest is stored only if the file last changed at least `SETTLED` seconds ago,
since two changes in quick succession may leave the same times.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from datasets.images import existing, file_status, stamp, unreadable
from utils.errors import UserError
from utils.files import sha256

SETTLED = 5.0


class Digests:
    """Digests of files by stamp, stored in `folder`. An unwritable folder is reported to `warn` and never fails a run."""

    def __init__(self, folder: Path, warn: Callable[[str], None]):
        self.path = folder / "digests.json"
        self.warn = warn
        self._known: dict[str, str] = {}
        self._new: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError, RecursionError):
            stored = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
            if isinstance(stored, dict) and all(isinstance(value, str) and len(value) == 64 for value in stored.values()):
                self._known = stored

    def __call__(self, path: Path) -> str:
        """Raises UserError naming a file that cannot be read."""
        key = stamp(path)
        if key in self._known:
            return self._known[key]
        try:
            digest = sha256(existing(path))
        except OSError as error:
            raise UserError(f"{path}: {unreadable(path, error)}") from error
        status = file_status(path)
        if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED and stamp(path) == key:
            self._known[key] = self._new[key] = digest
        return digest

    def save(self) -> None:
        """Writes the new digests, atomically. If two processes save at once, the additions of one may be lost."""
        if not self._new:
            return
        temporary = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._known), encoding="utf-8")
            temporary.replace(self.path)
            self._new = {}
        except OSError as error:
            self.warn(f"--cache_dir: {self.path}: cannot be written: {error.strerror or error}")
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
