"""A tuned prompt applied to image files: the run's own labels on its test set, other names, the template, and refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from clip.prompt import load_prompt, save_prompt
from datasets.digits import NAMES, read_digits
from main_sharpzo import main
from tests.helpers.runs import FLAGS, folder_of
from trainers.classifier import Classifier
from utils.config import REPOSITORY
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_mini")


@pytest.fixture(scope="module")
def test_set(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """The digits' test images as files, each with the name of its class."""
    folder, digits = tmp_path_factory.mktemp("digits"), read_digits()
    files = [(folder / f"{item.path.rpartition('/')[2]}.png", item.classname) for item in digits.test]
    for (path, _), item in zip(files, digits.test, strict=True):
        digits.open_image(item).save(path)
    return files


def tuned(output: Path, trainer: str, *flags: str) -> Path:
    assert main([*FLAGS, "--prompt_trainer", trainer, "--output_dir", str(output), *flags]) == 0
    return folder_of(output, trainer)


def percent_right(classifier: Classifier, test_set: list[tuple[Path, str]]) -> float:
    labels, _ = classifier.predict(path for path, _ in test_set)
    return 100 * sum(label == name for label, (_, name) in zip(labels, test_set, strict=True)) / len(test_set)


@pytest.mark.parametrize(
    ("trainer", "flags"),
    [
        ("sharpzo", []),
        ("coop", ["--csc", "--class_token_position", "middle"]),
        ("craft", []),
        ("blackvip", []),
        ("bpt-vlm", []),
        ("bpt-vlm", ["--deep"]),
    ],
)
def test_labels_of_the_test_set_are_those_of_the_run(
    trainer: str, flags: list[str], tmp_path: Path, test_set: list[tuple[Path, str]]
) -> None:
    folder = tuned(tmp_path, trainer, *flags)
    result = json.loads((folder / "result.json").read_text())
    assert percent_right(Classifier.load(folder), test_set) == pytest.approx(result["test_accuracy"])


def test_zero_shot_is_that_of_the_run(tmp_path: Path, test_set: list[tuple[Path, str]]) -> None:
    folder = tuned(tmp_path, "sharpzo")
    result = json.loads((folder / "result.json").read_text())
    classifier = Classifier.load(folder / "prompt.safetensors", zero_shot=True)
    assert percent_right(classifier, test_set) == pytest.approx(result["zero_shot_accuracy"])


def test_probabilities_are_the_softmax_of_the_logits(tmp_path: Path, test_set: list[tuple[Path, str]]) -> None:
    classifier = Classifier.load(tuned(tmp_path, "sharpzo"))
    paths = [path for path, _ in test_set[:3]]
    labels, probabilities = classifier.predict(paths)
    pixels = torch.stack([classifier.backbone.preprocess(Image.open(path).convert("RGB")) for path in paths])
    features = classifier.backbone.encode_images(pixels)
    logits = classifier.scorer.logits(features)
    assert torch.allclose(probabilities, logits.softmax(1)) and probabilities.dtype == torch.float64
    assert labels == [NAMES[k] for k in logits.argmax(1)]
    assert classifier.predict(Image.open(paths[0])).labels == labels[:1]


def test_text_prompt_carries_over_to_other_names(tmp_path: Path, test_set: list[tuple[Path, str]]) -> None:
    classifier = Classifier.load(tuned(tmp_path, "sharpzo"), classnames=["zero", "one"])
    some = [(path, name) for path, name in test_set if name in ("zero", "one")]
    labels, probabilities = classifier.predict(path for path, _ in some)
    assert set(labels) == {"zero", "one"} and probabilities.shape == (len(some), 2)
    # between two digits it is right more often than a coin
    assert percent_right(classifier, some) > 60


def test_works_from_any_working_directory(tmp_path: Path, test_set: list[tuple[Path, str]]) -> None:
    folder = tuned(tmp_path, "sharpzo")
    program = (
        "from trainers.classifier import Classifier\n"
        f"print(Classifier.load({str(folder)!r}).predict({str(test_set[0][0])!r}).labels[0])"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == Classifier.load(folder).predict(test_set[0][0]).labels[0], done.stderr


def test_image_that_cannot_be_read_is_an_outcome_with_its_reason(tmp_path: Path, test_set: list[tuple[Path, str]]) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("not a picture")
    classifier = Classifier.load(tuned(tmp_path, "sharpzo"))
    first, second, third = classifier.stream([test_set[0][0], bad, test_set[1][0]])
    assert second.logits is None and str(bad) in second.error
    assert first.logits is not None and third.logits is not None
    with pytest.raises(UserError, match=r"bad\.png"):
        classifier.predict([bad])


def test_what_is_not_a_prompt_for_these_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no prompt\.safetensors"):
        Classifier.load(tmp_path)
    folder = tuned(tmp_path, "sharpzo")
    tensors, about = load_prompt(folder / "prompt.safetensors")
    save_prompt(tmp_path / "other.safetensors", tensors, about | {"weights_sha256": "0" * 64})
    with pytest.raises(UserError, match="other weights"):
        Classifier.load(tmp_path / "other.safetensors")


def test_prompt_that_is_bound_to_its_classes_is_refused_on_others(tmp_path: Path) -> None:
    folder = tuned(tmp_path, "coop", "--csc")
    with pytest.raises(UserError, match="holds contexts of 10 classes"):
        Classifier.load(folder, classnames=["cat", "dog"])


def test_no_more_images_are_decoded_than_two_passes_take(tmp_path: Path, test_set: list[tuple[Path, str]]) -> None:
    classifier, taken = Classifier.load(tuned(tmp_path, "sharpzo")), 0

    def paths():
        nonlocal taken
        for path, _ in test_set:
            taken += 1
            yield path

    stream = classifier.stream(paths(), batch_size=8)
    for seen, _ in enumerate(stream, start=1):
        assert taken <= seen + 3 * 8
