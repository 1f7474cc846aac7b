"""From the disk to a `FewShotTask`: the few-shot draw, the frozen CLIP, image features and the zero-shot accuracy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import clip.backbone
from clip.text import ensemble_features
from datasets import DATASETS, zero_shot_templates
from datasets.augment import RandomView
from datasets.cache import FeatureCache, default_folder
from datasets.classes import cut_classes
from datasets.features import FeatureReader, check_images
from datasets.fewshot import choose_images
from datasets.split import load_dataset
from trainers import TRAINERS
from trainers.blackbox.criteria import mean_cross_entropy
from trainers.blackbox.samples import Samples, classify
from trainers.blackbox.task import FewShotTask
from utils.errors import RunError
from utils.seeds import sampling_generator
from utils.settings import Config

if TYPE_CHECKING:
    from datasets.split import Item

ZERO_SHOT_IMAGES_PER_PASS = 4096


def load_task(config: Config, device: torch.device) -> FewShotTask:
    """Data, CLIP and features. A trainer that trains nothing reads only the test list."""
    trains = TRAINERS[config.prompt_trainer].trains
    if trains:
        dataset = load_dataset(config.dataset, config.root_path)
        options = config.short_classes, config.split_file, config.subsample_classes
        dataset, train, val = choose_images(dataset, config.shots, sampling_generator(config.seed), *options)
    else:
        dataset, train, val = load_dataset(config.dataset, config.root_path, ("test",)), [], []
        dataset = cut_classes(dataset, config.subsample_classes)
    check_images(dataset, [*dataset.test, *train, *val])
    backbone = clip.backbone.load_backbone(config.backbone, device, config.checkpoint, config.trust_checkpoint)
    backbone = backbone.with_tower_weights(config.tower_weights)

    warnings = list(dataset.notes)
    cache = FeatureCache(Path(config.cache_dir or default_folder()), warnings.append) if config.cache else None
    features = FeatureReader(dataset, backbone, config.batch_size, cache)
    test_samples = _finite(Samples(*features(dataset.test, "test images")), dataset.test, backbone.name)
    templates = zero_shot_templates(config.dataset, config.template, config.ensemble)
    zero_shot, text_warnings = ensemble_features(backbone, dataset.classnames, templates)
    by_template = classify(lambda features: features @ zero_shot.T, test_samples, ZERO_SHOT_IMAGES_PER_PASS)
    zero_shot_loss = mean_cross_entropy(
        lambda features: backbone.logit_scale * features @ zero_shot.T, test_samples, ZERO_SHOT_IMAGES_PER_PASS
    )
    train_samples = val_samples = Samples(test_samples.inputs[:0], test_samples.labels[:0])
    seconds = 0.0
    if trains:
        scale = DATASETS[config.dataset].crop_scale
        views = [RandomView(config.seed, view, backbone.image_size, scale) for view in range(config.augment_views)]
        started = time.perf_counter()
        train_samples = _finite(Samples(*features.of_views(train, "train images", views)), train, backbone.name)
        seconds = time.perf_counter() - started
        val_samples = _finite(Samples(*features(val, "val images")), val, backbone.name)
    warnings += text_warnings
    samples, accuracy = (train_samples, val_samples, test_samples), 100 * by_template.share_right
    return FewShotTask(dataset, train, val, backbone, *samples, accuracy, warnings, seconds, zero_shot_loss, by_template)


def _finite(samples: Samples, items: Sequence[Item], backbone: str) -> Samples:
    """The samples. Raises RunError naming the first image whose features are NaN or infinite, since it cannot be scored."""
    damaged = (~torch.isfinite(samples.inputs)).flatten(1).any(1).nonzero()
    if len(damaged):
        path = items[int(damaged[0]) % len(items)].path
        raise RunError(
            f"{path}: {backbone} gives NaN or infinite features for this image ({len(damaged)} in all); check --checkpoint"
        )
    return samples
