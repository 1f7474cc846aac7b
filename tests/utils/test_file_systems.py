"""File systems without locks, or without fsync of a folder."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from utils import files
from utils import lock as locks


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_run_is_not_refused_and_says_that_it_is_not_locked(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "lockf", refuse)
    file, locked = locks.lock(tmp_path)
    file.close()
    assert not locked


def test_on_a_system_without_fcntl_a_run_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    file, locked = locks.lock(tmp_path)
    file.close()
    assert not locked


@pytest.mark.parametrize(("number", "tolerated"), [(errno.EINVAL, True), (errno.EOPNOTSUPP, True), (errno.EIO, False)])
def test_a_folder_that_cannot_be_synced_is_tolerated_but_a_failing_disk_is_not(
    number: int, tolerated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if tolerated:
        files.write_text(tmp_path / "file", "content")
    else:
        with pytest.raises(OSError, match=str(tmp_path)):
            files.write_text(tmp_path / "file", "content")
    assert (tmp_path / "file").read_text() == "content"
