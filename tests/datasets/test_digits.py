"""The bundled dataset: scikit-learn's digits, split by a fixed rule."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from datasets.split import Dataset, load_dataset


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", None)


def test_digits_are_cut_by_position_in_their_class(digits: Dataset) -> None:
    target = load_digits().target
    expected: dict[str, set[tuple[int, int]]] = {"train": set(), "val": set(), "test": set()}
    for label in range(10):
        positions = np.flatnonzero(target == label)
        for part, remainders in (("train", range(5)), ("val", range(5, 7)), ("test", range(7, 10))):
            chosen = positions[np.isin(np.arange(len(positions)) % 10, list(remainders))]
            expected[part] |= {(int(position), label) for position in chosen}
    for part, wanted in expected.items():
        items = getattr(digits, part)
        assert {(int(item.path.removeprefix("digit/")), item.label) for item in items} == wanted
        assert len(items) == len(wanted)


def test_digits_parts_share_nothing_and_hold_all_1797_images(digits: Dataset) -> None:
    paths = [item.path for part in (digits.train, digits.val, digits.test) for item in part]
    assert len(paths) == len(set(paths)) == 1797
    assert len(digits.test) == 531


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_every_digit_is_in_every_part_under_its_english_name(part: str, digits: Dataset) -> None:
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert {(item.label, item.classname) for item in getattr(digits, part)} == set(enumerate(names))
    assert digits.classnames == names


def test_digits_need_no_root_and_are_the_same_every_time(digits: Dataset) -> None:
    again = load_dataset("digits", "/no/such/folder")
    assert [again.train, again.val, again.test] == [digits.train, digits.val, digits.test]


def test_digits_open_as_grey_rgb_pictures_of_8_by_8(digits: Dataset) -> None:
    source = load_digits()
    for item in (*digits.train[:20], *digits.val[-20:], *digits.test[:20]):
        position = int(item.path.removeprefix("digit/"))
        picture = digits.open_image(item)
        pixels = np.asarray(picture)
        assert (picture.mode, picture.size) == ("RGB", (8, 8))
        assert np.array_equal(pixels, np.repeat(np.rint(source.images[position] * 255 / 16)[:, :, None], 3, axis=2))
        assert source.target[position] == item.label
