"""Scores finished runs' prompts on ALL validation images of their dataset, to choose settings by; test images are not read.

    python -m tools.sweep --datasets openmoji --methods bbt --seeds 1 --grid sigma=0.2,0.4,1.0
    python -m tools.validate outputs/openmoji/bbt/Mini

A run's own log has min(shots, 4) validation images a class, too few to tell settings of a small set apart. One line a run name,
backbone and number of shots: the mean over its seeds, highest first.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import defaultdict
from pathlib import Path

import torch

from clip.backbone import load_backbone
from clip.prompt import load_prompt
from datasets.features import FeatureReader
from datasets.split import load_dataset
from tools.common.runs import FinishedRun, find_runs
from tools.common.tables import sample, show
from trainers import TRAINERS
from trainers.blackbox.objective import Samples, top1
from trainers.blackbox.task import FewShotTask
from trainers.loop import registered
from utils.config import Parser, checked_settings
from utils.errors import UserError
from utils.settings import Config


class Validator:
    """Validation accuracy of runs; backbones, datasets and features are loaded once."""

    def __init__(self) -> None:
        self._tasks: dict[tuple, FewShotTask] = {}

    def accuracy(self, run: FinishedRun) -> float:
        """In percent. Raises UserError for a run whose prompt does not belong to its dataset's classes."""
        tensors, about = load_prompt(run.path / "prompt.safetensors")
        config = Config(**checked_settings(run.config, str(run.path / "config.yaml")))
        task = self._task(config)
        if list(task.dataset.classnames) != list(about["classnames"]):
            raise UserError(f"{run.path}: was made for other classes than the dataset has")
        scorer = registered(TRAINERS[config.prompt_trainer].restore)(config, task, tensors)
        with torch.inference_mode():
            return 100 * top1(scorer.logits, scorer.images, scorer.images_per_pass)

    def _task(self, config: Config) -> FewShotTask:
        """What a saved prompt is scored on, with the validation images in the place of the test images."""
        key = config.dataset, config.root_path, config.backbone, config.checkpoint
        if key not in self._tasks:
            backbone = load_backbone(config.backbone, torch.device("cpu"), config.checkpoint)
            data = load_dataset(config.dataset, config.root_path, ("train", "val"))
            if not data.val:
                raise UserError(f"{config.dataset}: has no validation images of its own")
            images = Samples(*FeatureReader(data, backbone, config.batch_size)(data.val, "val images"))
            judged = dataclasses.replace(data, test=data.val)
            self._tasks[key] = FewShotTask(judged, [], [], backbone, None, None, images, 0.0, [])
        return self._tasks[key]


def main(argv: list[str] | None = None) -> int:
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = Parser(prog="python -m tools.validate", description=__doc__, **style)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of runs, at any depth")
    try:
        runs, _ = find_runs(parser.parse_args(sys.argv[1:] if argv is None else argv).folders)
        validator = Validator()
        scores: dict[tuple, list[float]] = defaultdict(list)
        for run in runs:
            if (run.path / "prompt.safetensors").is_file():
                key = *(run.config[key] for key in ("dataset", "prompt_trainer", "backbone", "shots")), run.variant
                scores[key].append(validator.accuracy(run))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for (*about, shots, variant), values in sorted(scores.items(), key=lambda item: (item[0][:4], -sample(item[1]).mean)):
        print(f"{'  '.join(about)}  {shots} shots  {variant or '(no run name)'}  {show(sample(values))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
