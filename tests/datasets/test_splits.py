"""Split files: what is read, what is refused, and where a dataset is searched for."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scipy.io import savemat

from datasets import DATASETS
from datasets.sources import SOURCES
from datasets.split import Item, class_names, load_dataset, read_split
from tests.helpers.data import refusal

GOOD = {"train": [["a/1.jpg", 0, "ant"], ["b/1.jpg", 1, "bee"]], "val": [["a/2.jpg", 0, "ant"]], "test": [["b/2.jpg", 1, "bee"]]}


@pytest.fixture
def split_file(tmp_path: Path) -> Callable[[Any], Path]:
    """Writes a split file: text as it is, anything else as JSON."""

    def write(content: Any) -> Path:
        path = tmp_path / "split.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


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
        ["C:\\a\\1.jpg", 0, "ant"],
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
def test_part_that_is_not_a_list_is_refused(part: str, wrong: Any, split_file: Callable[[Any], Path]) -> None:
    path = split_file(GOOD | {part: wrong})
    assert refusal(read_split, path).startswith(f"{path}: {part}: must be a list")


@pytest.mark.parametrize(
    "document", [{"train": [], "val": []}, {"train": [], "test": []}, GOOD | {"more": []}, {}, [], "text", None, 3]
)
def test_document_without_exactly_the_three_parts_is_refused(document: Any, split_file: Callable[[Any], Path]) -> None:
    path = split_file(json.dumps(document))
    assert refusal(read_split, path) == f"{path}: must be an object with exactly train, val and test"


@pytest.mark.parametrize("text", ["", "{", "{'train': []}", "train", '{"train": [' + "[" * 100_000, "1" * 5000])
def test_file_that_is_not_json_is_refused(text: str, split_file: Callable[[Any], Path]) -> None:
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


@pytest.mark.parametrize("name", ["caltech101", "dtd", "eurosat", "oxford_flowers"])
def test_published_splits_have_classes_in_every_part(name: str, test_data: Path) -> None:
    parts = read_split(test_data / "splits" / DATASETS[name].split)
    classes = set(range(len(class_names(parts, name))))
    assert len(classes) == {"caltech101": 100, "dtd": 47, "eurosat": 10, "oxford_flowers": 102}[name]
    assert [{item.label for item in part} for part in parts] == [classes] * 3


def write_eurosat(folder: Path, document: Any = GOOD) -> None:
    (folder / "2750").mkdir(parents=True)
    (folder / "split_zhou_EuroSAT.json").write_text(json.dumps(document))


def test_the_released_codes_datasets_folder_is_found_and_coops_comes_first(tmp_path: Path) -> None:
    write_eurosat(tmp_path / "datasets" / "eurosat", GOOD | {"val": []})
    assert load_dataset("eurosat", str(tmp_path)).val == ()
    write_eurosat(tmp_path / "eurosat")
    assert len(load_dataset("eurosat", str(tmp_path)).val) == 1


def test_file_in_place_of_the_datasets_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "eurosat").touch()
    assert refusal(load_dataset, "eurosat", str(tmp_path)).endswith("a file where the folder of eurosat is expected")


@pytest.mark.parametrize("name", SOURCES)
def test_missing_root_is_refused_with_the_command_that_helps(name: str, tmp_path: Path) -> None:
    message = refusal(load_dataset, name, str(tmp_path))
    assert message.startswith(f"--root_path: {tmp_path / DATASETS[name].folder}: no such folder")
    assert f"python -m tools.data check {name}" in message


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("oxford_pets", ("images", "annotations/trainval.txt", "annotations/test.txt")),
        ("stanford_cars", ("cars_train", "devkit/cars_meta.mat", "cars_test_annos_withlabels.mat")),
        ("oxford_flowers", ("jpg", "imagelabels.mat", "cat_to_name.json")),
        ("sun397", ("SUN397", "ClassName.txt", "Training_01.txt")),
        ("ucf101", ("UCF-101-midframes", "ucfTrainTestlist")),
        ("dtd", ("images", "imdb", "labels")),
        ("food101", ("images", "meta")),
    ],
)
def test_no_split_is_made_up_from_annotations(name: str, there: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / DATASETS[name].folder
    for entry in there:
        if name in ("oxford_flowers", "stanford_cars") and entry.endswith(".mat"):
            (folder / entry).parent.mkdir(parents=True, exist_ok=True)
            savemat(folder / entry, {"labels": [[1, 2, 3]]})
        else:
            (folder / entry).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    message = refusal(load_dataset, name, str(tmp_path))
    assert message.startswith(f"{folder / DATASETS[name].split}: the split file is missing (present: ")
    assert all(entry in message for entry in there)
    assert f"python -m tools.data download {name}" in message
    assert sorted(tmp_path.rglob("*")) == before


def test_split_without_test_images_is_refused_only_if_they_are_required(tmp_path: Path) -> None:
    write_eurosat(tmp_path / "eurosat", GOOD | {"val": [["b/2.jpg", 1, "bee"]], "test": []})
    assert refusal(load_dataset, "eurosat", str(tmp_path)).endswith("test: the list is empty")
    assert load_dataset("eurosat", str(tmp_path), ("train", "val")).test == ()


def test_backslashes_of_a_list_made_on_windows_are_slashes(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps(GOOD).replace("/", "\\\\"))
    assert [item.path for item in read_split(path)[0]] == ["a/1.jpg", "b/1.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_mark_of_a_windows_editor_is_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps(GOOD), encoding=encoding)
    assert read_split(path)[0][0] == Item("a/1.jpg", 0, "ant")
