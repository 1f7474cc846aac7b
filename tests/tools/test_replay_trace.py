"""Our code reproduces the recorded numbers of the released code."""

from __future__ import annotations

from pathlib import Path

from tools.maintain.replay_trace import LIMITS, read_trace, replay


def test_recorded_run_of_the_released_code_is_reproduced(test_data: Path) -> None:
    worst = replay(read_trace(test_data / "released_trace.npz"))
    assert all(worst[quantity] <= limit for quantity, limit in LIMITS.items()), worst
