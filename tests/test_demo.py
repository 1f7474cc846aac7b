"""The embedded default does what the README says of it."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from main_sharpzo import main


@pytest.mark.slow
def test_sharpzo_is_ten_points_above_zero_shot_on_digits(tmp_path: Path) -> None:
    results = []
    for seed in ("1", "2", "3"):
        assert main(["--seed", seed, "--output_dir", str(tmp_path)]) == 0
        path = tmp_path / "digits/zo-pruned/Mini/16shots" / f"seed{seed}" / "result.json"
        results.append(json.loads(path.read_text()))
    zero_shot = {result["zero_shot_accuracy"] for result in results}
    assert len(zero_shot) == 1 and 40 < min(zero_shot) < 75
    assert statistics.mean(result["test_accuracy"] for result in results) > min(zero_shot) + 10
