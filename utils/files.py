"""Files are written whole or not at all; and whether standard error is a terminal."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def with_filename(path: Path | str) -> Iterator[None]:
    """An OSError of a call that does not know its file, such as a write, names `path`."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_all(file: RawIOBase, content: bytes, path: Path) -> None:
    """Writes to an unbuffered file, so that closing it does not retry a write that a full disk refused."""
    rest = memoryview(content)
    while rest:
        with with_filename(path):
            rest = rest[file.write(rest) :]


def write_bytes(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Replaces `path` by `content` atomically: a reader never sees half a file, not even after a power cut.

    `previous`: where the former file goes. A write that fails changes nothing.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with with_filename(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if previous and path.exists():
        path.replace(previous)
    temporary.replace(path)
    if os.name == "posix":
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Puts the new name itself on disk. Some file systems cannot (CIFS, VirtualBox shares, FUSE); the content is safe anyway."""
    folder = os.open(path, os.O_RDONLY)
    try:
        with with_filename(path):
            os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Like `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any, indent: int | None = 2, previous: Path | None = None) -> None:
    write_bytes(path, (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode(), previous)


def json_by_line(value: Mapping[str, Any]) -> str:
    """JSON with a line per key, and per item where the value is a list of objects."""
    lines = []
    for key, entry in value.items():
        text = json.dumps(entry, ensure_ascii=False)
        if isinstance(entry, list) and entry and isinstance(entry[0], dict):
            text = "[\n    " + ",\n    ".join(json.dumps(item, ensure_ascii=False) for item in entry) + "\n  ]"
        lines.append(f"  {json.dumps(key, ensure_ascii=False)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def is_terminal() -> bool:
    """Whether to show progress bars: standard error is a terminal, and this is rank 0 or the only process."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"
