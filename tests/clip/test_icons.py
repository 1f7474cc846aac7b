"""Icons and Icons-RN load from the repository and know the classes of the bundled icon sets."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from clip import ICONS
from clip.backbone import Backbone, load_backbone
from clip.bundled import build_bundled, model_config, weights_of
from clip.prompt import tokenize
from clip.text import zero_shot_features
from datasets import DATASETS
from datasets.features import FeatureReader
from datasets.split import load_dataset

CPU = torch.device("cpu")
ZERO_SHOT = {"Icons": 64.77, "Icons-RN": 72.16}


@pytest.fixture(scope="module", params=ICONS)
def icons(request: pytest.FixtureRequest) -> Backbone:
    return load_backbone(request.param, CPU)


def test_it_is_small_and_deep(icons: Backbone) -> None:
    assert weights_of(icons.name).stat().st_size < 16 * 2**20
    assert model_config(icons.name)["text_cfg"]["layers"] >= 6
    assert icons.image_size == (32, 32)


def test_its_file_has_the_loss_curve(icons: Backbone) -> None:
    with safe_open(weights_of(icons.name), "pt") as file:
        training = json.loads(file.metadata()["training"])
    steps, losses, _ = zip(*training["curve"], strict=True)
    assert training["steps"] == steps[-1] > 3000
    assert losses[-1] < 2.5 < losses[0]


def test_zero_shot_accuracy_is_the_documented_one(icons: Backbone) -> None:
    dataset = load_dataset("icons_arrows", None)
    features, labels = FeatureReader(dataset, icons, 256)(dataset.test, "test")
    prompts = [f"a photo of a {name}." for name in dataset.classnames]
    text, warnings = zero_shot_features(icons, prompts)
    accuracy = 100 * float(((features @ text.T).argmax(1) == labels).float().mean())
    # one image more or less on another processor
    assert abs(accuracy - ZERO_SHOT[icons.name]) < 0.5
    assert not warnings


@pytest.mark.parametrize("name", [name for name in DATASETS if name.startswith("icons_")])
def test_training_touched_every_token_of_every_class_name(icons: Backbone, name: str) -> None:
    prompts = [f"a photo of a {classname}." for classname in load_dataset(name, None).classnames]
    assert tokenize(icons, prompts)[1] == []


def test_the_default_backbones_config_builds_the_weights_of_its_own_file_only() -> None:
    with safe_open(weights_of("Icons"), "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    with pytest.raises(RuntimeError):
        build_bundled(model_config("Icons-RN"), weights)
