"""20,000 steps of stage 2: memory stays flat, files stay small, and the last steps take as long as the first."""

from __future__ import annotations

import itertools
import json
import resource
import time
from pathlib import Path

import pytest

from main_sharpzo import main
from tests.helpers.runs import FLAGS, folder_of
from utils.replay import LOSSES, ReplayLog

STEPS, BLOCK = 20_000, 1000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
def test_twenty_thousand_steps_do_not_raise_memory_or_time_per_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[tuple[int, float, int]] = []
    mark, discard = ReplayLog.checkpoint, "utils.run.discard"

    def watched(self: ReplayLog, step: int, *arguments: object) -> None:
        mark(self, step, *arguments)
        if step % BLOCK == 0:
            blocks.append((resident_bytes(), time.process_time(), (self.folder / LOSSES).stat().st_size))

    monkeypatch.setattr(ReplayLog, "checkpoint", watched)
    monkeypatch.setattr(discard, lambda folder: None)
    flags = [
        "--total_steps",
        str(STEPS),
        "--change_point",
        "1",
        "--prune_interval",
        "500",
        "--eval_every",
        "1000",
        "--save_every",
        "10",
    ]
    assert main([*FLAGS, *flags, "--zo_lr", "0.001", "--output_dir", str(tmp_path)]) == 0
    folder = folder_of(tmp_path, "sharpzo")
    memory, cpu, answers = zip(*blocks, strict=True)
    seconds = [after - before for before, after in itertools.pairwise(cpu)]
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    print(f"resident MiB after each {BLOCK} steps: {[size >> 20 for size in memory]}")
    print(f"CPU seconds a block: {[round(s, 2) for s in seconds]}; losses.bin {answers[-1]} bytes; files {json.dumps(sizes)}")
    # the first blocks still fill allocators and caches
    assert memory[-1] - memory[3] < 8 << 20
    assert sum(seconds[-5:]) < 1.3 * sum(seconds[:5])
    assert sizes[LOSSES] < STEPS * 2 * 8 + 100_000
    assert sizes["metrics.jsonl"] < STEPS * 250
