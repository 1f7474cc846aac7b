"""The embedded default does what the README says."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from main_sharpzo import main


def run(seed: int, output_dir: Path) -> dict:
    assert main(["--seed", str(seed), "--output_dir", str(output_dir)]) == 0
    return json.loads((output_dir / f"digits/sharpzo/Mini/16shots/seed{seed}/result.json").read_text())


def test_sharpzo_is_ten_points_above_zero_shot_on_digits(tmp_path: Path) -> None:
    result = run(1, tmp_path)
    assert 40 < result["zero_shot_accuracy"] < 75
    assert result["test_accuracy"] > result["zero_shot_accuracy"] + 10


@pytest.mark.slow
def test_mean_of_three_seeds_is_ten_points_above_zero_shot_on_digits(tmp_path: Path) -> None:
    results = [run(seed, tmp_path) for seed in (1, 2, 3)]
    assert statistics.mean(result["test_accuracy"] - result["zero_shot_accuracy"] for result in results) > 10
