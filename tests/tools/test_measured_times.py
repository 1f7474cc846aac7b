"""Times of a plan from finished runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.artifacts import finish
from tools.common.costs import cost
from tools.common.measured import MeasuredTimes
from tools.common.run_csv import write_csv
from tools.common.runs import read_run
from tools.reproduce import __main__ as reproduce
from tools.reproduce.suites import ICON_SUITE, JobFactory


def test_time_is_that_of_the_trainers_own_runs_scaled_by_classes(tmp_path: Path) -> None:
    maker = JobFactory(ICON_SUITE, str(tmp_path))
    job = maker.job("icons_emoji", "bbt", 1)
    finish(job)
    times = MeasuredTimes([read_run(job.path)])
    # 1600 queries took 16 s; nine classes, and 18 badges
    queries = cost(job.config).queries
    assert times.seconds(job.config) == pytest.approx(0.01 * queries)
    assert times.seconds(maker.job("icons_badges", "bbt", 1).config) == pytest.approx(0.02 * queries)
    assert times.seconds(maker.job("icons_emoji", "mezo", 1).config) is None
    assert times.seconds(maker.job("icons_emoji", "zero-shot", 1).config) == 0.0


def test_plan_of_the_icon_suite_estimates_from_its_recorded_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = JobFactory(ICON_SUITE, str(tmp_path)).job("icons_emoji", "bbt", 1)
    finish(job)
    write_csv([read_run(job.path)], tmp_path / "runs.csv")
    argv = ["table1", "--suite", "icons", "--datasets", "icons_emoji", "--methods", "bbt", "--dry-run", "--seeds", "2"]
    assert reproduce.main([*argv, "--benchmark", str(tmp_path / "runs.csv"), "--output_dir", str(tmp_path / "none")]) == 0
    assert ", 1 min on 1 process" in capsys.readouterr().out
