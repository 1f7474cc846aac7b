"""What is read of a dataset, what is refused, and that few-shot lists are CoOp's, item for item."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
import re
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from datasets import DATASETS
from datasets.fewshot import draw_few_shot, write_split
from datasets.split import Dataset, Item, class_names, load_dataset, open_image, read_split
from utils.errors import UserError
from utils.seeds import sampling_generator

GOOD = {"train": [["a/1.jpg", 0, "ant"], ["b/1.jpg", 1, "bee"]], "val": [["a/2.jpg", 0, "ant"]], "test": [["b/2.jpg", 1, "bee"]]}
READ_BY_OTHERS = ("caltech101", "dtd", "eurosat", "oxford_flowers")


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert message.strip()
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture
def split_file(tmp_path: Path) -> Callable[[Any], Path]:
    """Writes a split file: text as it is, anything else as JSON."""

    def write(content: Any) -> Path:
        path = tmp_path / "split.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def made_up(per_class: int, val_per_class: int, classes: Iterable[int] = (2, 0, 1)) -> Dataset:
    """A dataset of three classes, interleaved, that first appear out of label order."""
    names = ("ant", "bee", "cow")
    train = tuple(Item(f"{names[c]}/{n}", c, names[c]) for n in range(per_class) for c in classes)
    val = tuple(Item(f"val/{names[c]}/{n}", c, names[c]) for n in range(val_per_class) for c in classes)
    return Dataset("made-up", names, train, val, (), lambda item: Image.new("RGB", (8, 8)))


def per_class(items: Iterable[Item]) -> dict[int, int]:
    return dict(Counter(item.label for item in items))


def test_split_file_is_read_in_its_order(split_file: Callable[[Any], Path]) -> None:
    train, val, test = read_split(split_file(GOOD))
    assert train == (Item("a/1.jpg", 0, "ant"), Item("b/1.jpg", 1, "bee"))
    assert val == (Item("a/2.jpg", 0, "ant"),)
    assert test == (Item("b/2.jpg", 1, "bee"),)
    assert class_names((train, val, test), "split") == ("ant", "bee")


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize(
    "item",
    [
        ["a/1.jpg", 0],
        ["a/1.jpg", 0, "ant", "more"],
        [],
        "a/1.jpg",
        {"impath": "a/1.jpg", "label": 0, "classname": "ant"},
        None,
        [1, 0, "ant"],
        ["a/1.jpg", -1, "ant"],
        ["a/1.jpg", True, "ant"],
        ["a/1.jpg", False, "ant"],
        ["a/1.jpg", 0.0, "ant"],
        ["a/1.jpg", "0", "ant"],
        ["a/1.jpg", None, "ant"],
        ["a/1.jpg", 0, ""],
        ["a/1.jpg", 0, " \n"],
        ["a/1.jpg", 0, 5],
        ["/etc/passwd", 0, "ant"],
        ["../1.jpg", 0, "ant"],
        ["a/../../1.jpg", 0, "ant"],
        ["a/..", 0, "ant"],
        ["a\\1.jpg", 0, "ant"],
        ["..\\1.jpg", 0, "ant"],
        ["a\0.jpg", 0, "ant"],
        ["", 0, "ant"],
        [".", 0, "ant"],
    ],
    ids=json.dumps,
)
def test_malformed_item_is_refused_with_its_part_and_position(part: str, item: Any, split_file: Callable[[Any], Path]) -> None:
    path = split_file(GOOD | {part: [*GOOD[part], item, *GOOD[part]]})
    assert refusal(read_split, path).startswith(f"{path}: {part}[{len(GOOD[part])}]: ")


@pytest.mark.parametrize("path", ["a..b/1.jpg", "...jpg", "a b/ü.jpg", "./a/1.jpg", "deep/er/still/1.jpg"])
def test_unusual_but_harmless_path_is_read(path: str, split_file: Callable[[Any], Path]) -> None:
    assert read_split(split_file(GOOD | {"train": [[path, 0, "ant"]]}))[0] == (Item(path, 0, "ant"),)


@pytest.mark.parametrize("wrong", [{}, None, "a/1.jpg", 3])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_part_that_is_no_list_is_refused(part: str, wrong: Any, split_file: Callable[[Any], Path]) -> None:
    path = split_file(GOOD | {part: wrong})
    assert refusal(read_split, path).startswith(f"{path}: {part}: must be a list")


@pytest.mark.parametrize(
    "document", [{"train": [], "val": []}, {"train": [], "test": []}, GOOD | {"more": []}, {}, [], "text", None, 3]
)
def test_document_without_exactly_the_three_parts_is_refused(document: Any, split_file: Callable[[Any], Path]) -> None:
    path = split_file(json.dumps(document))
    assert refusal(read_split, path) == f"{path}: must be an object with exactly train, val and test"


@pytest.mark.parametrize("text", ["", "{", "{'train': []}", "train", '{"train": [' + "[" * 100_000, "1" * 5000])
def test_file_that_is_no_json_is_refused(text: str, split_file: Callable[[Any], Path]) -> None:
    path = split_file(text)
    assert refusal(read_split, path).startswith(f"{path}: not readable as JSON: ")


def test_split_that_is_binary_or_a_folder_or_missing_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "split.json"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (binary, tmp_path):
        assert refusal(read_split, path).startswith(f"{path}: not readable as JSON: ")
    assert refusal(read_split, tmp_path / "none.json").startswith(f"{tmp_path / 'none.json'}: the split file is missing")


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_label_with_two_names_is_refused_in_whichever_part(part: str, split_file: Callable[[Any], Path]) -> None:
    parts = read_split(split_file(GOOD | {part: [*GOOD[part], ["c/1.jpg", 0, "cow"]]}))
    assert refusal(class_names, parts, "FILE") == "FILE: label 0 has two names, 'ant' and 'cow'"


@pytest.mark.parametrize(("labels", "gap"), [((0, 2), 1), ((1, 2), 0), ((0, 1, 5), 2), ((), 0)])
def test_gap_in_the_labels_is_refused(labels: tuple[int, ...], gap: int) -> None:
    parts = [tuple(Item(f"{label}.jpg", label, f"name {label}") for label in labels)]
    assert refusal(class_names, parts, "FILE").startswith(f"FILE: no item has label {gap},")


def test_far_too_large_label_is_refused_without_filling_memory() -> None:
    parts = [(Item("0.jpg", 0, "ant"), Item("1.jpg", 500_000, "bee"))]
    tracemalloc.start()
    try:
        assert refusal(class_names, parts, "FILE").startswith("FILE: ")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [name for name, info in DATASETS.items() if info.split])
def test_missing_folder_of_a_dataset_is_refused_with_the_place_it_is_expected(name: str, tmp_path: Path) -> None:
    assert DATASETS[name].folder in refusal(load_dataset, name, None)
    assert str(tmp_path / DATASETS[name].folder) in refusal(load_dataset, name, str(tmp_path))
    (tmp_path / DATASETS[name].folder).mkdir()
    split = tmp_path / DATASETS[name].folder / DATASETS[name].split
    assert refusal(load_dataset, name, str(tmp_path)).startswith(f"{split}: the split file is missing")


def test_dataset_opens_its_images_below_its_image_folder(tmp_path: Path) -> None:
    images = tmp_path / "eurosat" / "2750" / "a"
    images.mkdir(parents=True)
    Image.new("L", (5, 7), 40).save(images / "1.jpg")
    (tmp_path / "eurosat" / "split_zhou_EuroSAT.json").write_text(json.dumps(GOOD))
    dataset = load_dataset("eurosat", str(tmp_path))
    picture = dataset.open_image(dataset.train[0])
    assert (dataset.name, dataset.classnames) == ("eurosat", ("ant", "bee"))
    assert (picture.mode, picture.size, picture.getpixel((2, 2))) == ("RGB", (5, 7), (40, 40, 40))


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
    assert refusal(draw_few_shot, made_up(3, 4), 4, random.Random(1)) == (
        "made-up: train: class 'cow' has 3 images, fewer than 4 shots"
    )
    assert refusal(draw_few_shot, made_up(8, 3), 8, random.Random(1)) == (
        "made-up: val: class 'cow' has 3 images, fewer than 4 shots"
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
        r"made-up: val: class '(ant|bee|cow)' has 3 images, fewer than 4 shots",
        refusal(draw_few_shot, made_up(8, 0), 5, random.Random(1)),
    )


def test_drawn_lists_are_written_in_coops_form(tmp_path: Path) -> None:
    train, val = draw_few_shot(made_up(3, 2), 2, random.Random(1))
    write_split(tmp_path / "split.json", train, val)
    document = json.loads((tmp_path / "split.json").read_text())
    assert document == {part: [[i.path, i.label, i.classname] for i in items] for part, items in (("train", train), ("val", val))}


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("name", READ_BY_OTHERS)
def test_few_shot_lists_are_those_that_others_drew(name: str, shots: int, test_data: Path) -> None:
    info = DATASETS[name]
    parts = read_split(test_data / "splits" / info.split)
    dataset = Dataset(name, class_names(parts, info.split), *parts, lambda item: Image.new("RGB", (1, 1)))
    files = sorted((test_data / "fewshot_indices" / name).glob(f"shot_{shots}-seed_*.json.gz"))
    assert files
    for file in files:
        seed = int(file.name.removesuffix(".json.gz").rpartition("_")[2])
        theirs = json.loads(gzip.decompress(file.read_bytes()))
        prefix = f"./data/{info.folder}/{info.images}/"
        for part, drawn in zip(("train", "val"), draw_few_shot(dataset, shots, sampling_generator(seed)), strict=True):
            entries = theirs[part]["data"]
            assert all(entry["impath"].startswith(prefix) for entry in entries)
            expected = [Item(entry["impath"].removeprefix(prefix), entry["label"], entry["classname"]) for entry in entries]
            assert drawn == expected


@pytest.mark.parametrize("name", READ_BY_OTHERS)
def test_published_splits_have_classes_in_every_part(name: str, test_data: Path) -> None:
    parts = read_split(test_data / "splits" / DATASETS[name].split)
    classes = set(range(len(class_names(parts, name))))
    assert len(classes) == {"caltech101": 100, "dtd": 47, "eurosat": 10, "oxford_flowers": 102}[name]
    assert [{item.label for item in part} for part in parts] == [classes] * 3


@pytest.mark.parametrize(("name", "classes"), [("caltech101", 20), ("dtd", 10)])
def test_real_images_open_as_rgb(name: str, classes: int, test_data: Path) -> None:
    dataset = load_dataset(name, str(test_data / "root"))
    assert len(dataset.classnames) == classes
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (16 * classes, 4 * classes, 8 * classes)
    for item in (*dataset.train, *dataset.val, *dataset.test)[::7]:
        picture = dataset.open_image(item)
        assert picture.mode == "RGB"
        assert min(picture.size) > 50


def test_16_shot_draw_of_the_cut_caltech_split_is_all_of_it(test_data: Path) -> None:
    dataset = load_dataset("caltech101", str(test_data / "root"))
    train, val = draw_few_shot(dataset, 16, sampling_generator(1))
    assert sorted(train) == sorted(dataset.train)
    assert sorted(val) == sorted(dataset.val)


@pytest.mark.parametrize(("suffix", "mode"), [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1")])
def test_image_of_any_mode_opens_as_rgb_by_its_content(suffix: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (9, 6), "white").convert(mode).save(path, suffix)
    picture = open_image(path)
    assert (picture.mode, picture.size, picture.getpixel((3, 3))) == ("RGB", (9, 6), (255, 255, 255))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_truncated_image_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(path, kind)
    whole = path.read_bytes()
    assert open_image(path).size == (32, 32)
    for length in (0, 1, 10, len(whole) // 4, len(whole) // 2):
        path.write_bytes(whole[:length])
        assert refusal(open_image, path).startswith(f"{path}: not a readable image: ")


def test_file_that_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_text("these are words\n" * 50)
    assert refusal(open_image, path).startswith(f"{path}: not a readable image: ")


def test_missing_image_is_refused_by_name(tmp_path: Path) -> None:
    assert refusal(open_image, tmp_path / "none.jpg") == f"{tmp_path / 'none.jpg'}: the image is missing"
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert refusal(open_image, tmp_path / "gone.jpg") == f"{tmp_path / 'gone.jpg'}: the image is missing"


def test_folder_in_place_of_an_image_or_on_the_way_to_one_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").mkdir()
    assert refusal(open_image, tmp_path / "picture.jpg").startswith(f"{tmp_path / 'picture.jpg'}: not a readable image: ")
    (tmp_path / "file").touch()
    assert refusal(open_image, tmp_path / "file" / "1.jpg").startswith(f"{tmp_path / 'file' / '1.jpg'}: ")


def test_damaged_real_image_is_refused_by_name(tmp_path: Path, test_data: Path) -> None:
    source = sorted((test_data / "root" / "eurosat" / "2750").rglob("*.jpg"))[0]
    whole = tmp_path / "whole.jpg"
    shutil.copy(source, whole)
    assert open_image(whole).size == (64, 64)
    whole.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    assert refusal(open_image, whole).startswith(f"{whole}: not a readable image: ")
