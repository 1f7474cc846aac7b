"""Out of memory, told in one line: how much was asked for, and which setting to lower."""

from __future__ import annotations

import contextlib
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import RunError

if TYPE_CHECKING:
    import torch

MIB = 1 << 20
# how torch's allocator on the CPU puts it, on Linux and on Windows and macOS
ON_CPU = re.compile(r"DefaultCPUAllocator|can't allocate memory|not enough memory", re.IGNORECASE)


@contextlib.contextmanager
def explain_oom(setting: str, value: int, device: torch.device) -> Iterator[None]:
    """An out-of-memory error becomes a RunError that proposes half of `setting`, which is `value`; that it fits is not known.

    Nothing is tried again with less: another chunk gives other last digits, so that is the user's to choose.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)|allocate ([\d.]+ \w+) for", " ".join(str(error).split()))
        what = f" (asked for {asked[1] or asked[2]})" if asked else ""
        free = free_mebibytes(device)
        lower = max(1, min(value // 2, free // 2)) if setting == "--memory_limit" else max(1, value // 2)
        raise RunError(
            f"out of memory{what}: {setting} is {value}, and {free} MiB are free; try {setting} {lower}, as a run of its own "
            "(--run_name or --overwrite); what was done is kept, and where memory is freed the same command goes on"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or torch ran out of memory."""
    if isinstance(error, MemoryError):
        return True
    # torch.OutOfMemoryError is a RuntimeError; asked by name, as this needs no torch
    return isinstance(error, RuntimeError) and (type(error).__name__ == "OutOfMemoryError" or bool(ON_CPU.search(str(error))))


def free_mebibytes(device: torch.device) -> int:
    """What the card has free, or this process may still take of the machine's memory, in MiB."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0] // MIB
    page = resource.getpagesize()
    if not Path("/proc/meminfo").exists():
        return os.sysconf("SC_PHYS_PAGES") * page // MIB
    free = int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) // 1024
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * page
        free = min(free, max(0, limit - used) // MIB)
    return free
