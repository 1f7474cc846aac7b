"""A tuned prompt at work: from a run folder or a prompt.safetensors to the classes of any images.

from trainers.classifier import Classifier

classifier = Classifier.load("outputs/digits/sharpzo/Mini/16shots/seed1")
labels, probabilities = classifier.predict(["a.png", "b.png"])
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from clip.backbone import Backbone, load_backbone
from clip.prompt import PROMPT_FILE
from clip.text import ensemble_features
from datasets import zero_shot_templates
from datasets.images import open_image
from datasets.split import Dataset
from trainers.blackbox.samples import Samples
from trainers.blackbox.task import FewShotTask
from trainers.saved import Scorer, read_saved, restore, text_scorer
from utils.device import pick_device
from utils.errors import UserError
from utils.parallel import parallel_map
from utils.settings import Config

Picture = str | Path | Image.Image


class Prediction(NamedTuple):
    """The likeliest class of each of n images, and probabilities (n, K) float64 in the order of `Classifier.classnames`."""

    labels: list[str]
    probabilities: Tensor


class Outcome(NamedTuple):
    """One image of a stream: its class logits (K,) float64, or None with the reason why the image cannot be read."""

    picture: Picture
    logits: Tensor | None
    error: str = ""


@dataclass(frozen=True)
class Classifier:
    """CLIP under a tuned prompt, or under the zero-shot template: from images to class probabilities.

    `config`: the settings of the run that tuned the prompt. `about` and `tensors`: the metadata and the tensors of the prompt's
    file. A probability is CLIP's own: the softmax of the logits, logit scale included.
    """

    classnames: tuple[str, ...]
    backbone: Backbone
    scorer: Scorer
    config: Config
    about: dict[str, Any]
    tensors: dict[str, Tensor]
    zero_shot: bool = False

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        classnames: Sequence[str] | None = None,
        zero_shot: bool = False,
        checkpoint: str | None = None,
        backbone: Backbone | None = None,
    ) -> Classifier:
        """`path`: a run folder or a prompt.safetensors, of any trainer. Works from any working directory.

        `classnames`: other classes than those that the prompt was tuned on. `zero_shot`: the run's template instead of its
        prompt, for comparison. `checkpoint`: where the backbone's weight file is now; default: where the run found it.
        `backbone`: one that is loaded already. Raises UserError for a file that is not a prompt, for weights other than those
        that the prompt was tuned for, and for a prompt that is bound to its classes.
        """
        file = prompt_file(Path(path))
        _, tensors, about = read_saved(Config(load_prompt=str(file)))
        settings = about["settings"] | {"checkpoint": checkpoint or about["settings"].get("checkpoint")}
        target = backbone.device if backbone else pick_device(device)
        config = Config(
            **settings
            | {"load_prompt": str(file), "dataset": about["dataset"], "device": str(target)}
            | {"prompt_trainer": about["prompt_trainer"]}
        )
        backbone = backbone or load_backbone(config.backbone, target, config.checkpoint, config.trust_checkpoint)
        # the values that the prompt was tuned on
        backbone = backbone.with_tower_weights(config.tower_weights)
        names = tuple(classnames if classnames is not None else about["classnames"])
        if not names:
            raise UserError("--classnames: give at least one class name")
        task = unfilled_task(backbone, names)
        scorer = zero_shot_scorer(config, task) if zero_shot else restore(config, task, tensors, about)
        return cls(names, backbone, scorer, config, about, tensors, zero_shot)

    def predict(self, images: Iterable[Picture] | Picture) -> Prediction:
        """The classes of images given as paths or as PIL pictures. Raises UserError naming the first that cannot be read."""
        pictures = [images] if isinstance(images, str | Path | Image.Image) else images
        logits = []
        for outcome in self.stream(pictures):
            if outcome.logits is None:
                raise UserError(outcome.error)
            logits.append(outcome.logits)
        probabilities = torch.stack(logits).softmax(1) if logits else torch.empty(0, len(self.classnames), dtype=torch.float64)
        return Prediction([self.classnames[k] for k in probabilities.argmax(1).tolist()], probabilities)

    def stream(self, pictures: Iterable[Picture], batch_size: int = 0) -> Iterator[Outcome]:
        """An outcome for each image, in order, in bounded memory: images decode while the tower works on those before them.

        `batch_size`: images per pass through the tower; default: the run's own, with which the test images have the run's logits.
        """
        size = batch_size or self.config.batch_size
        decoded = parallel_map(functools.partial(decode, self.backbone.preprocess), pictures, 2 * size)
        while batch := list(islice(decoded, size)):
            readable = [pixels for _, pixels in batch if isinstance(pixels, Tensor)]
            logits = iter(self.logits(torch.stack(readable)) if readable else ())
            for picture, pixels in batch:
                yield Outcome(picture, next(logits)) if isinstance(pixels, Tensor) else Outcome(picture, None, pixels)

    def logits(self, pictures: Tensor) -> Tensor:
        """Logits (n, K) float64, on the CPU, of preprocessed pictures (n, 3, H, W)."""
        with torch.inference_mode():
            inputs = self.scorer.prepare(pictures)
            return self.scorer.logits(inputs).cpu()


def prompt_file(path: Path) -> Path:
    """The prompt's file in a run folder, or the file itself. Raises UserError for a folder without one."""
    if not path.is_dir():
        return path
    if not (path / PROMPT_FILE).is_file():
        raise UserError(f"{path}: holds no {PROMPT_FILE}; give the folder of a finished run that trained with --save_model")
    return path / PROMPT_FILE


def unfilled_task(backbone: Backbone, classnames: Sequence[str]) -> FewShotTask:
    """The task on which a saved prompt is restored: the classes and the backbone, without any image."""
    dataset = Dataset("", tuple(classnames), (), (), (), open_image=lambda item: open_image(Path(item.path)))
    empty = Samples(torch.empty(0, 0), torch.empty(0, dtype=torch.long))
    return FewShotTask(dataset, [], [], backbone, empty, empty, empty, 0.0, [])


def zero_shot_scorer(config: Config, task: FewShotTask) -> Scorer:
    """CLIP under the template that the run compared its prompt with."""
    templates = zero_shot_templates(config.dataset, config.template, config.ensemble)
    features, _ = ensemble_features(task.backbone, task.dataset.classnames, templates)
    return text_scorer(task, features)


def decode(preprocess: Callable[[Image.Image], Tensor], picture: Picture) -> tuple[Picture, Tensor | str]:
    """The picture with its pixels (3, H, W) as the tower takes them, or with the reason why it cannot be read."""
    try:
        image = picture if isinstance(picture, Image.Image) else open_image(Path(picture))
        return picture, preprocess(image.convert("RGB"))
    except UserError as error:
        return picture, str(error)
