"""Writing whole files or none, and asking whether anyone looks at the terminal."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def with_filename(path: Path | str) -> Iterator[None]:
    """An OSError of a call that knows no file, as writing, names `path`."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_all(file: RawIOBase, content: bytes, path: Path) -> None:
    """Writes to an unbuffered file, so that what a full disk refuses is not tried again when the file is closed."""
    rest = memoryview(content)
    while rest:
        with with_filename(path):
            rest = rest[file.write(rest) :]


def write_bytes(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Replaces `path` by `content` in one move, so that a reader never sees half a file, not even after a power cut.

    `previous`: where what was there before goes. A write that fails leaves everything as it was.
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
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any, indent: int | None = 2, previous: Path | None = None) -> None:
    write_bytes(path, (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode(), previous)


def is_terminal() -> bool:
    """Whether progress bars have someone to look at them."""
    return sys.stderr is not None and sys.stderr.isatty()
