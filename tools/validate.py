"""Scores the prompts of finished runs on ALL validation images of their dataset, to choose settings; reads no test image.

    python -m tools.sweep --datasets openmoji --methods bbt --seeds 1 --grid sigma=0.2,0.4,1.0
    python -m tools.validate outputs/openmoji/bbt/Mini

A run itself uses min(shots, 4) validation images per class, too few to choose settings on a small dataset. Prints a row for
each method, run name, backbone and number of shots: the mean over seeds, highest first.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import defaultdict
from typing import Any

import torch

from clip.backbone import load_backbone
from clip.prompt import load_prompt
from datasets.features import FeatureReader
from datasets.split import load_dataset
from tools.common.cli import command, make_parser, user_path
from tools.common.names import title
from tools.common.runs import FinishedRun, find_runs
from tools.common.samples import sample, show
from tools.common.tables import Table
from trainers import TRAINERS, registered
from trainers.blackbox.samples import Samples, top1
from trainers.blackbox.task import FewShotTask
from utils.config import checked_settings
from utils.errors import UserError
from utils.settings import Config


class Validator:
    """Validation accuracy of runs; backbones, datasets and features are loaded once."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[str | None, ...], FewShotTask] = {}

    def accuracy(self, run: FinishedRun) -> float:
        """In percent. Raises UserError for a run whose prompt does not belong to its dataset's classes."""
        tensors, about = load_prompt(run.path / "prompt.safetensors")
        config = Config(**checked_settings(run.config, str(run.path / "config.yaml")))
        task = self._task(config)
        if list(task.dataset.classnames) != list(about["classnames"]):
            raise UserError(f"{run.path}: the prompt's classes differ from those of {config.dataset}")
        scorer = registered(TRAINERS[config.prompt_trainer].restore)(config, task, tensors)
        with torch.inference_mode():
            return 100 * top1(scorer.logits, scorer.images, scorer.images_per_pass)

    def _task(self, config: Config) -> FewShotTask:
        """What a saved prompt is scored on, with validation images in place of test images."""
        key = config.dataset, config.root_path, config.backbone, config.checkpoint
        if key not in self._tasks:
            backbone = load_backbone(config.backbone, torch.device("cpu"), config.checkpoint)
            data = load_dataset(config.dataset, config.root_path, ("train", "val"))
            if not data.val:
                raise UserError(f"{config.dataset}: has no validation images")
            images = Samples(*FeatureReader(data, backbone, config.batch_size)(data.val, "val images"))
            judged = dataclasses.replace(data, test=data.val)
            nothing: Any = None
            self._tasks[key] = FewShotTask(judged, [], [], backbone, nothing, nothing, images, 0.0, [])
        return self._tasks[key]


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.validate", __doc__)
    parser.add_argument("folders", type=user_path, nargs="+", help="folders of runs, at any depth")
    runs, _ = find_runs(parser.parse_args(argv).folders)
    validator = Validator()
    scores: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for run in runs:
        if (run.path / "prompt.safetensors").is_file():
            about = (str(run.config[key]) for key in ("dataset", "prompt_trainer", "backbone", "shots"))
            scores[(*about, run.variant)].append(validator.accuracy(run))
    table = Table("Validation accuracy", ["dataset", "method", "backbone", "shots", "run name", "validation accuracy (%)"])
    for (dataset, method, *rest), values in sorted(scores.items(), key=lambda item: (item[0][:4], -sample(item[1]).mean)):
        table.rows.append([dataset, title(method), *rest, show(sample(values))])
    if not table.rows:
        raise UserError(f"{', '.join(str(run.path) for run in runs) or 'no finished run'}: no prompt.safetensors to score")
    print(table.plain())
    return 0


if __name__ == "__main__":
    sys.exit(main())
