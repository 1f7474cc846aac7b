"""Stands in for main_sharpzo.py in tests of the sweep: fills a run folder at once, or does what FAKE says for its seed.

FAKE is JSON: {"SEED": "fail" | "interrupt" | "signal" | "wait" | "wait once"}. Each call adds a line to the file FAKE_CALLS.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import yaml

from datasets import DATASETS
from trainers import TRAINERS
from trainers.run_path import run_path
from utils.config import load_config


def main() -> int:
    config = load_config(sys.argv[1:], TRAINERS, DATASETS)
    with Path(os.environ["FAKE_CALLS"]).open("a") as calls:
        calls.write(json.dumps({"argv": sys.argv[1:], "cards": os.environ.get("CUDA_VISIBLE_DEVICES")}) + "\n")
    does = json.loads(os.environ.get("FAKE", "{}")).get(str(config.seed))
    if does == "fail":
        print("warning: something\nerror: the seed is unlucky", file=sys.stderr)
        return 1
    path = run_path(config)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config.as_dict() | {"threads": config.threads or 3}))
    if does == "signal":
        # as SLURM signals all processes of a task, here before this one has a handler
        os.kill(os.getpid(), signal.SIGUSR2)
    if does == "interrupt":
        return 3
    if does == "wait" or (does == "wait once" and not (path / "waiting").exists()):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        (path / "waiting").touch()
        time.sleep(600)
    result = {key: getattr(config, key) for key in ("dataset", "backbone", "shots", "seed")}
    result |= {"trainer": config.prompt_trainer, "test_accuracy": 50.0 + config.seed, "zero_shot_accuracy": 40.0, "queries": 8}
    (path / "result.json").write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
