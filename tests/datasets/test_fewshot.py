"""Few-shot lists: drawn by CoOp's rule, cut to half the classes, or given by the user."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.classes import cut_classes, per_class
from datasets.fewshot import choose_images, draw_few_shot, write_split
from datasets.split import Dataset, Item, load_dataset
from tests.helpers.data import made_up, refusal
from utils.seeds import sampling_generator


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", None)


@pytest.mark.parametrize(("shots", "val_shots"), [(1, 1), (2, 2), (4, 4), (8, 4), (16, 4)])
def test_few_shot_lists_hold_k_train_and_at_most_4_val_images_of_each_class(shots: int, val_shots: int, digits: Dataset) -> None:
    train, val = draw_few_shot(digits, shots, random.Random(1))
    assert per_class(train) == dict.fromkeys(range(10), shots)
    assert per_class(val) == dict.fromkeys(range(10), val_shots)
    assert len({item.path for item in train + val}) == 10 * (shots + val_shots)
    assert set(train) <= set(digits.train)
    assert set(val) <= set(digits.val)


def test_same_seed_draws_the_same_lists_and_another_seed_others(digits: Dataset) -> None:
    assert draw_few_shot(digits, 4, sampling_generator(3)) == draw_few_shot(digits, 4, sampling_generator(3))
    assert draw_few_shot(digits, 4, sampling_generator(3)) != draw_few_shot(digits, 4, sampling_generator(4))


def test_classes_are_drawn_in_order_of_first_appearance_from_one_stream() -> None:
    dataset = made_up(9, 6)
    train, val = draw_few_shot(dataset, 5, random.Random(7))
    stream = random.Random(7)
    expected = []
    for items, shots in ((dataset.train, 5), (dataset.val, 4)):
        for label in (2, 0, 1):
            expected += stream.sample([item for item in items if item.label == label], shots)
    assert train + val == expected


def test_drawing_leaves_the_global_generators_alone(digits: Dataset) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    draw_few_shot(digits, 4, sampling_generator(1))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


def test_global_generator_has_no_say_in_the_draw(digits: Dataset) -> None:
    first = draw_few_shot(digits, 4, sampling_generator(1))
    random.seed(99)
    assert draw_few_shot(digits, 4, sampling_generator(1)) == first


def test_class_with_too_few_images_is_refused_by_part_and_name() -> None:
    hint = "; use fewer --shots, or --short_classes take-all to train small classes on all their images"
    assert refusal(draw_few_shot, made_up(3, 4), 4, random.Random(1)) == (
        f"made-up: train: class 'cow' has 3 images, fewer than 4 shots{hint}"
    )
    assert refusal(draw_few_shot, made_up(8, 3), 8, random.Random(1)) == (
        f"made-up: val: class 'cow' has 3 images, fewer than 4 shots{hint}"
    )
    assert len(draw_few_shot(made_up(4, 4), 4, random.Random(1))[0]) == 12


def test_class_absent_from_a_part_is_refused_by_name() -> None:
    full, without_bee = made_up(4, 4), made_up(4, 4, classes=(2, 0))
    for part in ("train", "val"):
        dataset = dataclasses.replace(full, **{part: getattr(without_bee, part)})
        assert refusal(draw_few_shot, dataset, 2, random.Random(1)) == f"made-up: {part}: class 'bee' has no images"


def test_without_validation_images_they_are_drawn_from_unused_training_images() -> None:
    dataset = made_up(9, 0)
    train, val = draw_few_shot(dataset, 5, random.Random(1))
    assert per_class(val) == {0: 4, 1: 4, 2: 4}
    assert sorted(train + val) == sorted(dataset.train)
    assert re.fullmatch(
        r"made-up: val: class '(ant|bee|cow)' has 3 images, fewer than 4 shots; .*",
        refusal(draw_few_shot, made_up(8, 0), 5, random.Random(1)),
    )


def test_drawn_lists_are_written_in_coops_form(tmp_path: Path) -> None:
    train, val = draw_few_shot(made_up(3, 2), 2, random.Random(1))
    write_split(tmp_path / "split.json", train, val)
    document = json.loads((tmp_path / "split.json").read_text())
    assert document == {part: [[i.path, i.label, i.classname] for i in items] for part, items in (("train", train), ("val", val))}


def test_take_all_takes_a_short_class_whole_and_draws_nothing_for_it() -> None:
    dataset = made_up(9, 6)
    short = dataclasses.replace(dataset, train=tuple(item for item in dataset.train if item.label != 0 or int(item.path[-1]) < 3))
    train, val = draw_few_shot(short, 5, random.Random(7), "take-all")
    assert [item for item in train if item.label == 0] == [item for item in short.train if item.label == 0]
    stream = random.Random(7)
    for items, shots, drawn in ((short.train, 5, train), (short.val, 4, val)):
        for label in (2, 0, 1):
            members = [item for item in items if item.label == label]
            expected = stream.sample(members, shots) if len(members) >= shots else members
            assert [item for item in drawn if item.label == label] == expected


def test_take_all_does_not_stand_in_for_an_absent_class() -> None:
    without = dataclasses.replace(made_up(4, 4), val=made_up(4, 4, classes=(2, 0)).val)
    assert refusal(draw_few_shot, without, 9, random.Random(1), "take-all") == "made-up: val: class 'bee' has no images"


def of_classes(count: int) -> Dataset:
    names = [f"class {label:02d}" for label in range(count)]
    parts = [
        tuple(Item(f"{part}/{label}/{n}", label, names[label]) for label in range(count) for n in range(6)) for part in "abc"
    ]
    return Dataset("many", tuple(names), *parts, open_image=None)


@pytest.mark.parametrize(("count", "base"), [(10, 5), (37, 19), (47, 24), (101, 51), (397, 199), (3, 2)])
def test_base_is_the_first_half_rounded_up_and_new_the_rest_from_label_0(count: int, base: int) -> None:
    dataset = of_classes(count)
    first, second = cut_classes(dataset, "base"), cut_classes(dataset, "new")
    assert first.classnames == dataset.classnames[:base]
    assert second.classnames == dataset.classnames[base:]
    assert second.test == tuple(Item(i.path, i.label - base, i.classname) for i in dataset.test if i.label >= base)
    assert {i.label for i in second.train} == set(range(count - base))
    assert len(first.test) + len(second.test) == len(dataset.test)
    assert cut_classes(dataset, "all") == dataset


def test_lists_are_drawn_on_all_classes_and_then_cut() -> None:
    dataset = of_classes(5)
    _, whole, whole_val = choose_images(dataset, 2, random.Random(3))
    for half, labels in (("base", (0, 1, 2)), ("new", (3, 4))):
        cut, train, val = choose_images(dataset, 2, random.Random(3), classes=half)
        for drawn, of_all in ((train, whole), (val, whole_val)):
            assert drawn == [i._replace(label=i.label - labels[0]) for i in of_all if i.label in labels]
            assert all(cut.classnames[item.label] == item.classname for item in drawn)


def test_one_class_has_no_second_half() -> None:
    assert refusal(cut_classes, of_classes(1), "new").startswith("--subsample_classes: many has one class")


class ListFile:
    """A few-shot list that a test writes, and how it is read."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, **parts: Any) -> None:
        self.path.write_text(json.dumps(parts))

    def read(self, dataset: Dataset, shots: int, short: str = "error", classes: str = "all") -> tuple[Dataset, list, list]:
        return choose_images(dataset, shots, random.Random(0), short, str(self.path), classes)


@pytest.fixture
def list_file(tmp_path: Path) -> ListFile:
    return ListFile(tmp_path / "list.json")


@pytest.mark.parametrize("classes", ["all", "base", "new"])
def test_list_that_a_run_wrote_gives_the_same_images_again(classes: str, list_file: ListFile) -> None:
    dataset = of_classes(5)
    _, train, val = choose_images(dataset, 2, random.Random(3), classes=classes)
    write_split(list_file.path, train, val)
    assert list_file.read(dataset, 2, classes=classes)[1:] == (train, val)


@pytest.mark.parametrize("classes", ["base", "new"])
def test_list_of_all_classes_is_cut_to_the_half(classes: str, list_file: ListFile) -> None:
    dataset = of_classes(5)
    write_split(list_file.path, *choose_images(dataset, 2, random.Random(3))[1:])
    assert list_file.read(dataset, 2, classes=classes) == choose_images(dataset, 2, random.Random(3), classes=classes)


def test_list_may_hold_the_datasets_own_test_list_and_no_other(list_file: ListFile) -> None:
    dataset = of_classes(2)
    _, train, val = choose_images(dataset, 1, random.Random(3))
    list_file.write(train=train, val=val, test=dataset.test)
    assert list_file.read(dataset, 1) == (dataset, train, val)
    list_file.write(train=train, val=val, test=dataset.test[1:])
    assert refusal(list_file.read, dataset, 1) == (
        f"{list_file.path}: test: is not the test list of many, which a few-shot list cannot change; remove it"
    )


@pytest.mark.parametrize(
    ("part", "item", "reason"),
    [
        ("train", ["a/0/9", 0, "class 1"], "train[2]: a/0/9: label 0 is 'class 00' in many, not 'class 1'"),
        ("val", ["a/0/9", 2, "class 02"], "val[2]: a/0/9: label 2, but many has 2 classes"),
        ("train", ["a/0/9", 0, "class 00"], "train: class 'class 00' has 2 images, but --shots is 1"),
        ("train", ["../9", 0, "class 00"], "train[2]: '../9' must be a path below the image folder"),
        ("val", ["b/0/9", 0], "val[2]: ['b/0/9', 0]: expected [path, label, class name]"),
    ],
)
def test_list_that_does_not_fit_is_refused_with_its_item(part: str, item: list, reason: str, list_file: ListFile) -> None:
    dataset = of_classes(2)
    _, train, val = choose_images(dataset, 1, random.Random(3))
    lists = {"train": train, "val": val}
    list_file.write(**lists | {part: [*lists[part], item]})
    assert refusal(list_file.read, dataset, 1) == f"{list_file.path}: {reason}"


def test_list_with_fewer_images_than_shots_needs_take_all(list_file: ListFile) -> None:
    dataset = of_classes(2)
    _, train, val = choose_images(dataset, 1, random.Random(3))
    write_split(list_file.path, train, val)
    assert refusal(list_file.read, dataset, 2).endswith("but --shots is 2; --short_classes take-all accepts fewer")
    assert list_file.read(dataset, 2, "take-all")[1:] == (train, val)
    list_file.write(train=train[1:], val=val)
    assert refusal(list_file.read, dataset, 2, "take-all").endswith("train: class 'class 00' has no images")


def test_list_that_trains_on_test_images_is_refused(list_file: ListFile) -> None:
    dataset = of_classes(2)
    _, train, val = choose_images(dataset, 1, random.Random(3))
    list_file.write(train=[dataset.test[0], *train[1:]], val=val)
    assert "c/0/0 is a test image of many" in refusal(list_file.read, dataset, 1)


@pytest.mark.parametrize("document", [[], {"train": []}, {"train": [], "val": [], "more": []}])
def test_file_that_is_not_a_list_is_refused(document: Any, list_file: ListFile) -> None:
    list_file.path.write_text(json.dumps(document))
    assert refusal(list_file.read, of_classes(2), 1).startswith(
        f"{list_file.path}: must be an object with the lists train and val"
    )


@pytest.mark.parametrize(("images", "shots", "expected"), [(4, 4, (3, 1)), (10, 16, (8, 2)), (2, 2, (1, 1)), (30, 16, (16, 4))])
def test_take_all_reserves_training_images_without_a_validation_part(images: int, shots: int, expected: tuple[int, int]) -> None:
    train, val = draw_few_shot(made_up(images, 0), shots, random.Random(1), "take-all")
    assert (set(per_class(train).values()), set(per_class(val).values())) == ({expected[0]}, {expected[1]})
    assert not set(train) & set(val)


def test_shots_that_leave_nothing_to_validate_on_are_refused_with_a_number_that_works() -> None:
    message = refusal(draw_few_shot, made_up(4, 0), 4, random.Random(1))
    assert message.startswith("--shots: class 'ant' has 4 images to train on and --shots 4 uses all of them")
    assert "use --shots 3" in message


def test_a_line_says_that_fewer_shots_were_drawn() -> None:
    chosen, train, _ = choose_images(made_up(3, 4), 16, random.Random(1), "take-all")
    assert len(train) == 9
    assert chosen.notes == ("3 of 3 classes have fewer than 16 training images and use all of them; the smallest, 'cow', has 3",)
    assert choose_images(made_up(3, 4), 3, random.Random(1))[0].notes == ()
