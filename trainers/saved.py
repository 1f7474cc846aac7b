"""A saved prompt, used again: on the images it was made for, on other classes, or on another dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clip.prompt import load_prompt, placeholder_words
from datasets import DATASETS
from trainers import TRAINERS, registered
from trainers.blackbox.criteria import mean_cross_entropy
from trainers.blackbox.problem import text_features
from trainers.blackbox.samples import Classified, SampleSet, classify
from trainers.run_path import evaluation_name
from utils.config import checked_settings
from utils.errors import UserError
from utils.memory import is_out_of_memory
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.task import FewShotTask

# image features scored together
IMAGES_PER_PASS = 4096
# settings that come from the evaluating run, not from the run that saved the prompt
OF_THIS_RUN = (
    "load_prompt",
    "seed",
    "dataset",
    "root_path",
    "template",
    "batch_size",
    "memory_limit",
    "engine",
    "tower_weights",
    "precision",
    "device",
    "checkpoint",
    "trust_checkpoint",
)


@dataclass(frozen=True)
class Scorer:
    """Logits (n, K) of image inputs (n, …), the test images in that form, and how many to score together.

    `prepare`: from preprocessed pictures (n, 3, H, W) to the inputs that `logits` takes. `text` (K, D): the classes' text
    features, L2-normalized; None if the logits do not come from any (tip-adapter, linear-probe).
    """

    logits: Callable[[Any], Tensor]
    images: SampleSet
    images_per_pass: int
    prepare: Callable[[Tensor], Any]
    text: Tensor | None


def read_saved(config: Config) -> tuple[Config, dict[str, Tensor], dict[str, Any]]:
    """The settings under which `--load_prompt` is evaluated, its tensors, and its metadata.

    Settings that determine the prompt, such as shots and seed, come from the run that saved it; without `--run_name`, the run is
    named by `evaluation_name`. Raises UserError for a file that no run wrote.
    """
    path = Path(config.load_prompt or "")
    tensors, about = load_prompt(path)
    try:
        trainer, source, digest = about["prompt_trainer"], about["dataset"], about["weights_sha256"]
        given = dict(about["settings"]) | {key: about[key] for key in ("shots", "seed")}
        # the file is checked like any other configuration
        settings = checked_settings(given, str(path))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: does not say how it was made ({error}); only a run's own prompt.safetensors does") from error
    if not isinstance(trainer, str) or trainer not in TRAINERS or not isinstance(digest, str):
        raise UserError(f"{path}: was made by {trainer!r}, which is not a trainer of this version; use the version that made it")
    trainer = TRAINERS.canonical(trainer)
    if source not in DATASETS:
        raise UserError(f"{path}: was made on {source!r}, which is not a dataset of this version; use the version that made it")
    run_name = config.run_name or evaluation_name(trainer, source, config.subsample_classes)
    evaluated = dataclasses.replace(config, shots=settings["shots"], seed=settings["seed"], run_name=run_name)
    return evaluated, tensors, about | {"settings": settings}


def saved_scores(
    config: Config, task: FewShotTask, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> tuple[Classified, float]:
    """The test images' classes and the test cross-entropy under the saved prompt, on this run's classes and images."""
    settings = about["settings"] | {key: getattr(config, key) for key in OF_THIS_RUN}
    task.warnings.extend(_other_names(about.get("classnames"), task.dataset.classnames))
    scorer = restore(Config(**settings), task, tensors, about)
    with torch.inference_mode():
        scored = scorer.logits, scorer.images, scorer.images_per_pass
        return classify(*scored), mean_cross_entropy(*scored)


def _other_names(trained: object, here: Sequence[str]) -> list[str]:
    """A line if the prompt was trained for class names other than those that it is scored on."""
    names = list(trained) if isinstance(trained, list | tuple) else []
    if not names or names == list(here):
        return []
    return [
        f"the prompt was trained for {len(names)} classes ({_some(names)}) and is scored on {len(here)} others ({_some(here)}): "
        "its context is put before these names, which it was not tuned for"
    ]


def _some(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:3])) + (", …" if len(names) > 3 else "")


def restore(config: Config, task: FewShotTask, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Scorer:
    """The saved prompt with the settings `config`, on the task's classes, backbone and test images.

    Raises UserError for a prompt of other weights, and for one that does not fit these classes.
    """
    if about["weights_sha256"] != task.backbone.fingerprint():
        raise UserError(
            f"{config.load_prompt}: was made for other weights than {task.backbone.name} has here; use the --backbone and "
            "--checkpoint of its run"
        )
    try:
        return registered(TRAINERS[about["prompt_trainer"]].restore)(config, task, tensors)
    except (KeyError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{config.load_prompt}: its tensors do not fit these classes or this backbone: {error}") from error


def text_prompt(config: Config, task: FewShotTask, tensors: Mapping[str, Tensor]) -> Scorer:
    """The context before this dataset's class names. A context per class requires the same number of classes."""
    context, classes = tensors["context"], len(task.dataset.classnames)
    if context.ndim == 3 and len(context) != classes:
        raise UserError(
            f"{config.load_prompt}: holds contexts of {len(context)} classes, but there are {classes} here; use it with the "
            "classes that it was tuned on"
        )
    text = text_features(config, task, config.ctx_init or placeholder_words(context.shape[-2]))
    with torch.inference_mode():
        features = text(context[None])[0]
    return text_scorer(task, features)


def text_scorer(task: FewShotTask, features: Tensor) -> Scorer:
    """Logits of image features against the classes' text features (K, D), L2-normalized."""
    scale = task.backbone.logit_scale
    return Scorer(
        lambda images: scale * (images @ features.T).double(),
        task.test_samples,
        IMAGES_PER_PASS,
        task.backbone.encode_images,
        features,
    )
