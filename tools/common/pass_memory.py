"""How much memory a piece of work allocates at most, beyond what is allocated when it starts."""

from __future__ import annotations

from collections.abc import Callable

import torch


def most_allocated(work: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors on `device` that `work` holds at the same time, at most, those that it leaves behind included.

    On the CPU, torch's own record of allocations is read, since the process's size also depends on what earlier work has freed.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        work()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
