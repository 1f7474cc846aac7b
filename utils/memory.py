"""Out of memory in one line: how much was requested, and which setting to lower."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import RunError
from utils.settings import Config

if TYPE_CHECKING:
    import torch

MIB = 1 << 20
# messages of torch's CPU allocator on Linux, and on Windows and macOS
ON_CPU = re.compile(r"DefaultCPUAllocator|can't allocate memory|not enough memory", re.IGNORECASE)


@contextlib.contextmanager
def explain_oom(config: Config, device: torch.device) -> Iterator[Callable[[str], None]]:
    """An out-of-memory error becomes a RunError that proposes half of a setting, which may still be too much.

    Yields a function that names the setting to lower from there on. Nothing is retried with less memory: another chunk size
    changes the last digits of results, so the choice is the user's.
    """
    lowered = "memory_limit"

    def lower(setting: str) -> None:
        nonlocal lowered
        lowered = setting

    try:
        yield lower
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        requested = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)|allocate ([\d.]+ \w+) for", " ".join(str(error).split()))
        what = f" (requested {requested[1] or requested[2]})" if requested else ""
        value, free = getattr(config, lowered), free_mebibytes(device)
        proposed = max(1, min(value // 2, free // 2)) if lowered == "memory_limit" else max(1, value // 2)
        raise RunError(
            f"out of memory{what}: --{lowered} is {value}, and {free} MiB are free. Free memory and repeat the command to resume "
            f"it, or start another run with --{lowered} {proposed} and its own --run_name"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or torch ran out of memory."""
    if isinstance(error, MemoryError):
        return True
    # torch.OutOfMemoryError is a RuntimeError; compared by name, so that torch need not be imported
    return isinstance(error, RuntimeError) and (type(error).__name__ == "OutOfMemoryError" or bool(ON_CPU.search(str(error))))


def free_mebibytes(device: torch.device) -> int:
    """Free memory of the card, or of the machine within this process's limits, in MiB; 0 if unknown."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0] // MIB
    if os.name != "posix":
        return 0
    import resource

    page = resource.getpagesize()
    if not Path("/proc/meminfo").exists():
        return os.sysconf("SC_PHYS_PAGES") * page // MIB
    available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    free = int(available[1]) // 1024 if available else os.sysconf("SC_AVPHYS_PAGES") * page // MIB
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * page
        free = min(free, max(0, limit - used) // MIB)
    return free


def return_freed() -> None:
    """Gives memory that this process has freed back to the system, where the C library has a call for it (glibc)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)
