"""Cross-entropy of finished runs on pictures that they could have trained on but did not: for choosing settings.

A run itself draws at most four validation pictures per class, too few for a choice. Used here are all validation pictures of
the dataset and the training pictures that the run did not draw, but no test pictures.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch
from torch import Tensor

from clip.backbone import load_backbone
from clip.prompt import load_prompt
from datasets.features import FeatureReader
from datasets.split import Dataset, load_dataset
from tools.common.runs import FinishedRun
from trainers import TRAINERS, registered
from trainers.blackbox.criteria import mean_cross_entropy
from trainers.blackbox.samples import Samples, top1
from trainers.blackbox.task import FewShotTask
from utils.config import checked_settings
from utils.settings import Config


class HeldOut:
    """Scores runs; backbones, datasets and features are loaded once."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, str], tuple[Any, Dataset, Samples]] = {}

    def scores(self, run: FinishedRun) -> dict[str, float]:
        """`val_loss` and `val_accuracy` (percent) of the run's prompt, and `pictures`: on how many."""
        config = Config(**checked_settings(run.config, str(run.path / "config.yaml")))
        backbone, data, every = self._of(config)
        drawn = {path for path, *_ in json.loads((run.path / "split.json").read_text(encoding="utf-8"))["train"]}
        items = (*data.train, *data.val)
        left = torch.tensor([i for i, item in enumerate(items) if item.path not in drawn])
        pictures = every[left]
        judged = dataclasses.replace(data, test=tuple(items[int(i)] for i in left))
        nothing: Any = None
        task = FewShotTask(judged, [], [], backbone, nothing, nothing, pictures, 0.0, [])
        tensors, _ = load_prompt(run.path / "prompt.safetensors")
        scorer = registered(TRAINERS[config.prompt_trainer].restore)(config, task, tensors)
        with torch.inference_mode():
            scored = scorer.logits, scorer.images, scorer.images_per_pass
            loss, accuracy = mean_cross_entropy(*scored), top1(*scored)
        return {"val_loss": loss, "val_accuracy": 100 * accuracy, "pictures": float(len(left))}

    def _of(self, config: Config) -> tuple[Any, Dataset, Samples]:
        key = config.dataset, config.backbone
        if key not in self._loaded:
            backbone = load_backbone(config.backbone, torch.device("cpu"))
            data = load_dataset(config.dataset, config.root_path, ("train", "val"))
            found: tuple[Tensor, Tensor] = FeatureReader(data, backbone, config.batch_size)([*data.train, *data.val], "pictures")
            self._loaded[key] = backbone, data, Samples(*found)
        return self._loaded[key]
