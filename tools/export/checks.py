"""What an export must show before it is used: the same numbers as PyTorch at several batch sizes, and what each form costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.classes import cut_classes
from datasets.fewshot import choose_images
from datasets.split import Dataset, Item, load_dataset
from trainers.blackbox.images import Preprocess
from trainers.classifier import Classifier
from utils.errors import RunError, UserError
from utils.numbers import ceil_div
from utils.parallel import parallel_map
from utils.seeds import sampling_generator
from utils.settings import Config

BATCHES = (1, 2, 7)
IMAGES_PER_PASS = 32
TIMED_PASSES = 30
# largest difference of a logit; float32 towers of other libraries differ by 1e-4 to 1e-3 at logit scale 100
LOGIT_TOLERANCE = 0.05

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class CheckSets:
    """8-bit pixels (n, H, W, 3) and labels (n,) of the run's few-shot training images, and of validation and test images."""

    train: tuple[np.ndarray, np.ndarray]
    val: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def load_sets(classifier: Classifier, root_path: str | None, limit: int) -> CheckSets:
    """Images of the dataset that the prompt was tuned on, at most `limit` (0: all) of validation and test, evenly spaced.

    Raises UserError if the dataset is not at hand.
    """
    config: Config = classifier.config
    dataset = load_dataset(config.dataset, root_path)
    options = config.short_classes, config.split_file, config.subsample_classes
    cut, train, val = choose_images(dataset, config.shots, sampling_generator(config.seed), *options)
    # the run's own validation images are few
    whole = cut_classes(dataset, config.subsample_classes).val or val
    read = Preprocess(classifier.backbone.preprocess)

    def pixels(items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
        step = max(1, ceil_div(len(items), limit)) if limit else 1
        chosen = list(items)[::step]
        found = list(parallel_map(lambda item: read.pixels(cut.open_image(item)), chosen, 64))
        images = torch.stack(found).permute(0, 2, 3, 1).contiguous().numpy()
        return images, np.array([item.label for item in chosen])

    return CheckSets(pixels(train), pixels(whole), pixels(_test(cut)))


def _test(dataset: Dataset) -> Sequence[Item]:
    if not dataset.test:
        raise UserError(f"{dataset.name}: has no test images to check the export on; use --no-checks")
    return dataset.test


def session(path: Path) -> Run:
    """The graph at `path` as a function of 8-bit pixels, by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    loaded = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(pixels: np.ndarray) -> np.ndarray:
        (output,) = loaded.run(None, {"pixels": pixels})
        return np.asarray(output)

    return run


def all_logits(run: Run, pixels: np.ndarray) -> np.ndarray:
    parts = [run(pixels[start : start + IMAGES_PER_PASS]) for start in range(0, len(pixels), IMAGES_PER_PASS)]
    return np.concatenate(parts)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """In percent."""
    return 100 * float((logits.argmax(1) == labels).mean())


def compare_batches(features: tuple[Run, Run], logits: tuple[Run, Run], pixels: np.ndarray) -> list[dict[str, Any]]:
    """Worst cosine of features and largest difference of logits, PyTorch's beside the graph's, at each of `BATCHES`.

    Raises RunError if the logits differ by more than rounding.
    """
    rows = []
    for n in BATCHES:
        ours, theirs = (run(pixels[:n]) for run in features)
        cosine = float((ours * theirs).sum(1).min())
        worst = float(np.abs(logits[0](pixels[:n]) - logits[1](pixels[:n])).max())
        if not worst <= LOGIT_TOLERANCE:
            raise RunError(
                f"the exported graph is wrong: at batch {n} a logit differs by {worst:.3g}, more than {LOGIT_TOLERANCE}"
            )
        rows.append({"batch": n, "largest_logit_difference": worst, "worst_cosine": cosine})
    return rows


def milliseconds(run: Run, pixels: np.ndarray) -> float:
    """Median time of one image."""
    run(pixels[:1])
    times = []
    for _ in range(TIMED_PASSES):
        started = time.perf_counter()
        run(pixels[:1])
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)
