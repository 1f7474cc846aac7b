"""The lock that keeps two processes out of one run folder."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import TextIO

from utils.errors import RunError

LOCK = "lock"


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
