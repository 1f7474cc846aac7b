"""Finished runs made up for the tests of tools.reproduce: a short curve in each run folder, and no training."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tools.common.runs import Job
from tools.reproduce import __main__ as reproduce
from tools.reproduce.suites import MINI, JobFactory

CURVE = ((0, 1, 0, 40.0), (10, 1, 1000, 60.0), (20, 2, 1500, 70.0), (30, 2, 1600, 72.0))


def maker(tmp_path: Path, **options: object) -> JobFactory:
    return JobFactory(MINI, str(tmp_path / "runs"), **options)


def finish(job: Job, shift: float = 0.0) -> None:
    """Fills a job's run folder with a short curve, `shift` points higher."""
    config = job.config
    job.path.mkdir(parents=True, exist_ok=True)
    (job.path / "config.yaml").write_text(yaml.safe_dump(config.as_dict()))
    lines = [
        {
            "step": step,
            "stage": stage,
            "seconds": queries / 100,
            "queries": queries,
            "test_accuracy": accuracy + shift * (step > 0),
        }
        for step, stage, queries, accuracy in CURVE
    ]
    (job.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {key: getattr(config, key) for key in ("dataset", "backbone", "shots", "seed")} | {"trainer": config.prompt_trainer}
    trained = config.prompt_trainer != "zero-shot"
    result |= {"zero_shot_accuracy": 40.0, "test_accuracy": 72.0 + shift if trained else 40.0, "queries": 1600 if trained else 0}
    result |= {"tower_images": 160, "seconds": 16.0}
    (job.path / "result.json").write_text(json.dumps(result))


def call(tmp_path: Path, *argv: str) -> int:
    where = ("--suite", "mini", "--output_dir", str(tmp_path / "runs"), "--output", str(tmp_path / "made"))
    return reproduce.main([*argv, *where])
