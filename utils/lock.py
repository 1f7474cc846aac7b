"""The lock that keeps two processes out of one run folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TextIO

from utils.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"
# Lustre without -o flock, some NFS and FUSE
UNSUPPORTED = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})


def lock(path: Path) -> tuple[TextIO, bool]:
    """Locks a run folder until the returned file is closed or the process ends; False where the file system has no locks.

    Raises RunError if another process holds the lock. It is a POSIX record lock and not one of the filelock package, whose
    flock would be inherited by child processes: the system drops this one with its owner.
    """
    file = (path / LOCK).open("a")
    try:
        locked = _lock(file)
        # the owner may have removed the file meanwhile; a lock on it would exclude no one
        if not os.path.samestat(os.fstat(file.fileno()), (path / LOCK).stat()):
            raise FileNotFoundError
    except OSError as error:
        file.close()
        if isinstance(error, FileNotFoundError) or error.errno in (errno.EACCES, errno.EAGAIN):
            raise RunError(f"{path}: another process is running this run") from None
        error.filename = error.filename or str(path / LOCK)
        raise
    return file, locked


def _lock(file: TextIO) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True


def refuse_locked(path: Path) -> None:
    """Raises RunError if another process holds the lock of the run folder, if it exists; releases its own lock at once."""
    if (path / LOCK).is_file():
        lock(path)[0].close()
