"""Datasets without a split file: FGVC's lists, and any folder of images."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from datasets.split import Dataset, Item, load_dataset
from tests.helpers.data import draw_images, refusal

VARIANTS = ("707-320", "F/A-18", "Cessna 172", "DC-3")


def load(folder: Path) -> Dataset:
    return load_dataset("folder", str(folder))


@pytest.fixture
def fgvc(tmp_path: Path) -> Path:
    """Four variants with two training images and one of each other part."""
    folder = tmp_path / "fgvc_aircraft"
    number = 0
    for part, count in (("train", 2), ("val", 1), ("test", 1)):
        lines = []
        for variant in VARIANTS:
            for _ in range(count):
                lines.append(f"{number:07d} {variant}\n")
                draw_images(folder / "images", f"{number:07d}.jpg")
                number += 1
        (folder / f"images_variant_{part}.txt").write_text("".join(lines))
    (folder / "variants.txt").write_text("\n".join(VARIANTS) + "\n")
    return folder


def test_fgvc_labels_are_lines_of_variants_and_names_keep_spaces_and_slashes(fgvc: Path) -> None:
    dataset = load_dataset("fgvc_aircraft", str(fgvc.parent))
    assert dataset.classnames == VARIANTS
    assert dataset.train[2:4] == (Item("0000002.jpg", 1, "F/A-18"), Item("0000003.jpg", 1, "F/A-18"))
    assert [item.classname for item in dataset.test] == list(VARIANTS)
    assert dataset.open_image(dataset.test[0]).mode == "RGB"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0000002 F/A-19", "'F/A-19' is not a line of variants.txt"),
        ("", "the line is blank"),
        ("0000002", "'' is not a line of variants.txt"),
        ("../../etc/passwd F/A-18", "expected an image number, a space and a variant"),
    ],
)
def test_malformed_line_of_an_fgvc_list_is_refused_with_its_number(line: str, reason: str, fgvc: Path) -> None:
    path = fgvc / "images_variant_val.txt"
    path.write_text(f"0000008 707-320\n{line}\n0000009 F/A-18\n")
    message = refusal(load_dataset, "fgvc_aircraft", str(fgvc.parent))
    assert message.startswith(f"{path}:2: ")
    assert reason in message


def test_missing_fgvc_list_and_repeated_variant_are_refused_by_name(fgvc: Path) -> None:
    (fgvc / "images_variant_test.txt").unlink()
    assert refusal(load_dataset, "fgvc_aircraft", str(fgvc.parent)) == f"{fgvc / 'images_variant_test.txt'}: the list is missing"
    assert len(load_dataset("fgvc_aircraft", str(fgvc.parent), ("train", "val")).train) == 8
    (fgvc / "variants.txt").write_text("707-320\nDC-3\n707-320\n")
    assert refusal(load_dataset, "fgvc_aircraft", str(fgvc.parent)).endswith(
        "variants.txt:3: the variant '707-320' is listed twice"
    )


def test_published_fgvc_train_list_is_read_in_its_order(test_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fgvc_aircraft"
    folder.mkdir()
    for part in ("train", "val"):
        text = (test_data / "names" / f"fgvc_images_variant_{part}.partial.txt").read_text()
        (folder / f"images_variant_{part}.txt").write_text(text)
    (folder / "variants.txt").write_text((test_data / "names" / "fgvc_variants.txt").read_text())
    dataset = load_dataset("fgvc_aircraft", str(tmp_path), ("train", "val"))
    assert (len(dataset.classnames), len(dataset.train), len(dataset.val)) == (100, 3219, 2516)
    labels = [item.label for item in dataset.train]
    assert labels == sorted(labels)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Two classes of 10 and one of 7 images, directly below the folder."""
    for name, count in (("wood_frog", 10), ("Ant", 10), ("bee hive", 7)):
        draw_images(tmp_path / "mine" / name, *(f"{n}.png" for n in range(count)))
    return tmp_path / "mine"


def test_each_class_of_a_plain_folder_is_split_50_20_30(flat: Path) -> None:
    dataset = load(flat)
    assert dataset.classnames == ("Ant", "bee hive", "wood_frog")
    counts = [Counter(item.label for item in part) for part in (dataset.train, dataset.val, dataset.test)]
    assert counts == [{0: 5, 1: 4, 2: 5}, {0: 2, 1: 1, 2: 2}, {0: 3, 1: 2, 2: 3}]
    paths = [item.path for part in (dataset.train, dataset.val, dataset.test) for item in part]
    assert len(set(paths)) == 27
    assert all((flat / path).is_file() for path in paths)
    assert load(flat).test == dataset.test


def test_split_of_one_class_does_not_depend_on_the_others(flat: Path) -> None:
    before = [item.path for item in load(flat).test if item.classname == "wood_frog"]
    draw_images(flat / "Bug", *(f"{n}.png" for n in range(5)))
    assert [item.path for item in load(flat).test if item.classname == "wood_frog"] == before


def test_files_that_are_not_images_are_ignored(flat: Path) -> None:
    before = load(flat)
    (flat / ".git").mkdir()
    (flat / "notes.txt").touch()
    for stray in (".DS_Store", "._1.png", "Thumbs.db", "notes.txt"):
        (flat / "Ant" / stray).touch()
    (flat / "Ant" / "more.png").mkdir()
    after = load(flat)
    assert (after.classnames, after.train, after.test) == (before.classnames, before.train, before.test)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_class_too_small_to_be_split_is_refused_by_name(count: int, flat: Path) -> None:
    (flat / "few").mkdir()
    draw_images(flat / "few", *(f"{n}.png" for n in range(count)))
    assert refusal(load, flat).startswith(
        f"{flat / 'few'}: the class has {count} image{'s' * (count != 1)}, too few to split 50/20/30"
    )


def test_four_images_per_class_are_enough(flat: Path) -> None:
    draw_images(flat / "few", *(f"{n}.png" for n in range(4)))
    assert [sum(item.classname == "few" for item in part) for part in (load(flat).train, load(flat).val, load(flat).test)] == [
        2,
        1,
        1,
    ]


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    """Two classes in train/, val/ and test/."""
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        for name in ("cat", "dog"):
            draw_images(tmp_path / "mine" / part / name, *(f"{n}.jpg" for n in range(count)))
    return tmp_path / "mine"


def test_existing_part_folders_are_used(divided: Path) -> None:
    dataset = load(divided)
    assert [len(part) for part in (dataset.train, dataset.val, dataset.test)] == [6, 4, 2]
    assert dataset.test == (Item("test/cat/0.jpg", 0, "cat"), Item("test/dog/0.jpg", 1, "dog"))
    assert dataset.open_image(dataset.train[0]).mode == "RGB"


def test_validation_part_may_be_left_out(divided: Path) -> None:
    (divided / "val").rename(divided.parent / "away")
    assert load(divided).val == ()


def test_class_that_differs_between_parts_is_refused_by_name(divided: Path) -> None:
    draw_images(divided / "test" / "cow", "1.jpg")
    assert refusal(load, divided) == f"{divided / 'test'}: 'cow' is not a class of train/"
    draw_images(divided / "train" / "cow", "1.jpg")
    assert refusal(load, divided) == f"{divided / 'val'}: 'cow' has no folder here, though train/ has it"


def test_incomplete_or_mixed_part_folders_are_refused(divided: Path) -> None:
    draw_images(divided / "bird", "1.jpg")
    assert refusal(load, divided).startswith(f"{divided / 'bird'}: not train/, val/ or test/, which")
    (divided / "test").rename(divided.parent / "away")
    assert refusal(load, divided) == f"{divided}: has train/ with class folders, but test/ has none; both are required"


def test_class_without_images_is_refused_by_name(divided: Path) -> None:
    (divided / "train" / "cat").rename(divided.parent / "away")
    (divided / "train" / "cat").mkdir()
    assert refusal(load, divided) == f"{divided / 'train' / 'cat'}: the class has no images"


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "bus"):
        draw_images(tmp_path / name, *(f"{n}.jpg" for n in range(4)))
    assert load(tmp_path).classnames == ("bus", "train")


def test_names_come_from_classnames_if_it_exists(flat: Path) -> None:
    (flat / "classnames.txt").write_text("wood_frog Wood frog, adult\nAnt an ant\nbee hive a hive of bees\n\n")
    dataset = load(flat)
    assert dataset.classnames == ("an ant", "a hive of bees", "Wood frog, adult")
    assert {item.classname for item in dataset.test} == set(dataset.classnames)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Ant ant\nwasp a wasp\n", ":2: 'wasp a wasp': expected a class folder, a space and the name to display"),
        ("Ant ant\nAnt insect\n", ":2: the class folder 'Ant' is listed twice"),
        ("Ant ant\n\nwood_frog frog\n", ":2: the line is blank"),
        ("Ant\n", ":1: 'Ant': expected a class folder, a space and the name to display"),
        ("Ant ant\nwood_frog frog\n", ": the class folder 'bee hive' has no line"),
        ("", ": the list is empty"),
    ],
)
def test_wrong_classnames_are_refused(text: str, reason: str, flat: Path) -> None:
    (flat / "classnames.txt").write_text(text)
    assert refusal(load, flat) == f"{flat / 'classnames.txt'}{reason}"


def test_folder_that_is_missing_or_without_classes_is_refused(tmp_path: Path) -> None:
    assert refusal(load, tmp_path).startswith(f"{tmp_path}: no class folders")
    assert refusal(load, tmp_path / "nowhere") == f"--root_path: {tmp_path / 'nowhere'}: no such folder"
    assert refusal(load_dataset, "folder", None) == "--root_path: dataset folder requires the image folder"


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every folder")
def test_folder_that_may_not_be_read_is_refused(flat: Path) -> None:
    (flat / "Ant").chmod(0)
    assert refusal(load, flat).startswith(f"{flat / 'Ant'}: the folder cannot be read")


def test_other_files_in_a_class_folder_are_counted(flat: Path) -> None:
    for name in ("a.heic", "b.heic", "notes.txt", ".DS_Store"):
        (flat / "Ant" / name).touch()
    (flat / "Ant" / "more").mkdir()
    draw_images(flat, "stray.png")
    assert load(flat).notes == (
        f"{flat}: 27 images; skipped 2 .heic, 1 .txt, 1 folder, 1 hidden file in class folder Ant",
        f"{flat}: skipped 1 image outside the class folders",
    )


def test_class_of_other_formats_alone_is_refused_saying_which(flat: Path) -> None:
    (flat / "cow").mkdir()
    for n in range(8):
        (flat / "cow" / f"{n}.heic").touch()
    assert "the class has 0 images (besides 8 .heic; convert" in refusal(load, flat)


@pytest.mark.parametrize("name", ["@eaDir", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", ".git", "lost+found"])
def test_system_folders_are_not_classes(name: str, flat: Path) -> None:
    draw_images(flat / name, "1.png")
    assert len(load(flat).classnames) == 3


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".avif", ".pnm"])
def test_less_usual_suffixes_are_images(suffix: str, flat: Path) -> None:
    draw_images(flat / "Ant", f"new{suffix}")
    dataset = load(flat)
    assert f"Ant/new{suffix}" in {item.path for item in (*dataset.train, *dataset.val, *dataset.test)}


@pytest.mark.parametrize("twin", ["wood frog", "Wood_Frog", "wood__frog", "wood&#32;frog"])
def test_two_classes_with_one_prompt_are_refused(twin: str, flat: Path) -> None:
    draw_images(flat / twin, *(f"{n}.png" for n in range(8)))
    message = refusal(load, flat)
    assert repr(twin) in message
    assert "'wood_frog'" in message
    assert "have the same prompt, 'wood frog'" in message


def test_one_name_in_two_unicode_forms_is_one_class(flat: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    draw_images(flat / decomposed, *(f"{n}.png" for n in range(8)))
    (flat / "classnames.txt").write_text(f"Ant ant\nbee hive bees\n{composed} coffee house\nwood_frog frog\n", encoding="utf-16")
    assert load(flat).classnames == ("ant", "bees", "coffee house", "frog")
    (flat / "classnames.txt").unlink()
    assert load(flat).classnames[2] == composed
    split = [item.path.split("/")[1] for item in load(flat).test if item.label == 2]
    (flat / decomposed).rename(flat / composed)
    assert [item.path.split("/")[1] for item in load(flat).test if item.label == 2] == split
    draw_images(flat / decomposed, *(f"{n}.png" for n in range(8)))
    assert "have one name in two Unicode forms" in refusal(load, flat)


def test_single_class_is_refused(tmp_path: Path) -> None:
    draw_images(tmp_path / "unlabeled", *(f"{n}.png" for n in range(8)))
    assert "with one class every prompt scores 100%" in refusal(load, tmp_path)


def test_skipped_files_are_counted_per_part(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            draw_images(tmp_path / part / name, "1.png", "2.png")
    for path in ("train/ant/notes.txt", "test/bee/1.heic", "test/bee/2.heic"):
        (tmp_path / path).write_bytes(b"")
    assert load(tmp_path).notes == (
        f"{tmp_path / 'train'}: 4 images; skipped 1 .txt in class folder train/ant",
        f"{tmp_path / 'test'}: 4 images; skipped 2 .heic in class folder test/bee",
    )
    draw_images(tmp_path, "1.png", "train/1.png")
    assert load(tmp_path).skipped == {"": 1, "train": 2, "test": 2}
