"""Scores finished runs' prompts on ALL validation images of their dataset, to choose settings by; test images are not read.

    python -m tools.sweep --datasets openmoji --methods bbt --seeds 1 --grid sigma=0.2,0.4,1.0
    python -m tools.validate outputs/openmoji/bbt/Mini

A run's own log has min(shots, 4) validation images a class, too few to tell settings of a small set apart. For prompts of text
tokens. One line a run name: the mean over its seeds, highest first.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import torch

from clip.backbone import load_backbone
from clip.prompt import load_prompt
from clip.text import TextFeatures
from datasets.features import FeatureReader
from datasets.split import load_dataset
from tools.runs import FinishedRun, find_runs
from tools.tables import sample, show
from trainers.objective import Images, top1
from utils.config import Parser
from utils.errors import UserError


class Validator:
    """Validation accuracy of runs; backbones, datasets and features are loaded once."""

    def __init__(self) -> None:
        self._images: dict[tuple, tuple] = {}

    def accuracy(self, run: FinishedRun) -> float:
        """In percent. Raises UserError for a run without a text prompt."""
        config = run.config
        tensors, about = load_prompt(run.path / "prompt.safetensors")
        if "context" not in tensors:
            raise UserError(f"{run.path}: its prompt has no context of text tokens")
        backbone, images, names = self._of(config["dataset"], config["root_path"], config["backbone"], config["checkpoint"])
        if list(names) != list(about["classnames"]):
            raise UserError(f"{run.path}: was made for other classes than the dataset has")
        context = tensors["context"]
        words = config["ctx_init"] or " ".join(["x"] * context.shape[-2])
        features = TextFeatures(backbone, names, words, config["memory_limit"] << 20, position=config["class_token_position"])
        with torch.inference_mode():
            text = features(context[None])[0]
            return 100 * top1(lambda inputs: inputs @ text.T, images, 4096)

    def _of(self, dataset: str, root: str | None, name: str, checkpoint: str | None) -> tuple:
        key = dataset, root, name, checkpoint
        if key not in self._images:
            backbone = load_backbone(name, torch.device("cpu"), checkpoint)
            data = load_dataset(dataset, root, ("train", "val"))
            if not data.val:
                raise UserError(f"{dataset}: has no validation images of its own")
            self._images[key] = backbone, Images(*FeatureReader(data, backbone, 256)(data.val, "val images")), data.classnames
        return self._images[key]


def main(argv: list[str] | None = None) -> int:
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = Parser(prog="python -m tools.validate", description=__doc__, **style)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of runs, at any depth")
    try:
        runs, _ = find_runs(parser.parse_args(sys.argv[1:] if argv is None else argv).folders)
        validator = Validator()
        scores: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for run in runs:
            if (run.path / "prompt.safetensors").is_file():
                key = run.config["dataset"], run.config["prompt_trainer"], run.variant
                scores[key].append(validator.accuracy(run))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for (dataset, method, variant), values in sorted(scores.items(), key=lambda item: (item[0][:2], -sample(item[1]).mean)):
        print(f"{dataset}  {method}  {variant or '(no run name)'}  {show(sample(values))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
