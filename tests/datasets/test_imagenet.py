"""ImageNet and its shifts from small folders in their layouts: labels, names, and refused layouts."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.fewshot import draw_few_shot
from datasets.imagenet import BUNDLED_NAMES
from datasets.split import Dataset, Item, load_dataset
from tests.helpers.data import draw_images, refusal

NAMES = {"n01440764": "tench", "n01443537": "goldfish", "n03773504": "missile", "n04008634": "missile"}
WNIDS = list(NAMES)


def write_names(folder: Path, names: dict[str, str] = NAMES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in names.items()))


def bundled() -> dict[str, str]:
    return dict(line.split(" ", 1) for line in BUNDLED_NAMES.read_text().splitlines())


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Four classes, two of one name: 3 training images each in an order that sorting changes, 2 of the test set."""
    folder = tmp_path / "imagenet"
    for wnid in reversed(WNIDS):
        draw_images(folder / "images" / "train" / wnid, *(f"{wnid}_{n}.JPEG" for n in (20, 3, 100)))
        draw_images(folder / "images" / "val" / wnid, *(f"ILSVRC2012_val_{n:08d}.JPEG" for n in (2, 1)))
    write_names(folder)
    return folder


def load(folder: Path, name: str = "imagenet", needed: tuple[str, ...] = ("train", "val", "test")) -> Dataset:
    return load_dataset(name, str(folder.parent), needed)


def test_labels_are_sorted_wnids_and_files_are_sorted(imagenet: Path) -> None:
    dataset = load(imagenet)
    assert dataset.classnames == ("tench", "goldfish", "missile", "missile")
    assert [item.label for item in dataset.train] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    wnid = WNIDS[1]
    assert dataset.train[3:6] == tuple(Item(f"train/{wnid}/{wnid}_{n}.JPEG", 1, "goldfish") for n in (100, 20, 3))
    assert dataset.test[:2] == tuple(Item(f"val/{WNIDS[0]}/ILSVRC2012_val_{n:08d}.JPEG", 0, "tench") for n in (1, 2))
    assert dataset.val == ()
    assert dataset.open_image(dataset.test[0]).mode == "RGB"


def test_order_of_the_name_list_does_not_decide_labels(imagenet: Path) -> None:
    write_names(imagenet, dict(reversed(NAMES.items())))
    assert load(imagenet).classnames == ("tench", "goldfish", "missile", "missile")


def test_validation_shots_are_unused_training_images(imagenet: Path) -> None:
    dataset = load(imagenet)
    train, val = draw_few_shot(dataset, 1, random.Random(1))
    assert len(train) == len(val) == 4
    assert not {item.path for item in train} & {item.path for item in val}
    assert {item.path for item in val} <= {item.path for item in dataset.train}


def test_stray_files_and_hidden_folders_are_passed_over(imagenet: Path) -> None:
    before = load(imagenet)
    for part in ("train", "val"):
        folder = imagenet / "images" / part
        for stray in (
            folder / "LOC_val_solution.csv",
            folder / "._x.JPEG",
            folder / WNIDS[0] / "._1.JPEG",
            folder / WNIDS[0] / "tmp",
        ):
            stray.write_text("litter")
        (folder / "__MACOSX").mkdir()
        (folder / ".cache").mkdir()
    after = load(imagenet)
    assert (after.train, after.test) == (before.train, before.test)


def test_evaluation_does_not_need_the_training_images(imagenet: Path) -> None:
    (imagenet / "images" / "train").rename(imagenet / "away")
    assert len(load(imagenet, needed=("test",)).test) == 8
    assert refusal(load, imagenet) == f"{imagenet / 'images' / 'train'}: the folder is missing"


def test_missing_class_folder_is_refused_and_nothing_is_renumbered(imagenet: Path) -> None:
    (imagenet / "images" / "val" / WNIDS[1]).rename(imagenet / "away")
    message = refusal(load, imagenet)
    assert message == f"{imagenet / 'images' / 'val'}: no folder for class {WNIDS[1]} of the 4 in {imagenet / 'classnames.txt'}"


def test_flat_validation_folder_is_refused_as_such(imagenet: Path) -> None:
    val = imagenet / "images" / "val"
    for path in list(val.rglob("*.JPEG")):
        path.rename(val / f"{path.parent.name}_{path.name}")
    for wnid in WNIDS:
        (val / wnid).rmdir()
    assert refusal(load, imagenet).startswith(f"{val}: the images are not in class folders; move them into one folder per class")


def test_foreign_and_empty_class_folders_are_refused_by_name(imagenet: Path) -> None:
    train = imagenet / "images" / "train"
    (train / "n99999999").mkdir()
    assert refusal(load, imagenet).startswith(f"{train / 'n99999999'}: n99999999 is not a class of ")
    (train / "n99999999").rmdir()
    for path in (train / WNIDS[2]).iterdir():
        path.unlink()
    assert refusal(load, imagenet) == f"{train / WNIDS[2]}: class 'missile' has no images"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("n0144 tench", "'n0144 tench': expected a wnid (n and 8 digits), a space and a name"),
        ("n01440764", "'n01440764': expected a wnid"),
        ("", "the line is blank"),
        ("n01443537 gold fish", "n01443537 is listed twice"),
    ],
)
def test_wrong_line_of_the_name_list_is_refused_with_its_number(line: str, reason: str, imagenet: Path) -> None:
    (imagenet / "classnames.txt").write_text(f"n01443537 goldfish\n{line}\nn03773504 missile\n")
    assert refusal(load, imagenet).startswith(f"{imagenet / 'classnames.txt'}:2: {reason}")


def test_bundled_names_are_the_1000_in_order_with_two_of_them_twice(test_data: Path) -> None:
    assert BUNDLED_NAMES.read_bytes() == (test_data / "names" / "imagenet_classnames.txt").read_bytes()


def test_bundled_names_are_used_without_a_list() -> None:
    names = bundled()
    assert list(names) == sorted(names)
    assert len(names) == 1000
    assert len(set(names.values())) == 998


def test_missing_classes_are_counted_against_the_bundled_names(imagenet: Path) -> None:
    (imagenet / "classnames.txt").unlink()
    assert "and 995 more of the 1000" in refusal(load, imagenet)


def test_folder_number_is_the_label_in_v2(tmp_path: Path) -> None:
    names = {f"n{n:08d}": f"name {n}" for n in range(12)}
    write_names(tmp_path / "imagenet", names)
    images = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    for label in range(12):
        draw_images(images / str(label), "a.jpeg")
    dataset = load(tmp_path / "imagenetv2", "imagenetv2")
    assert {item.path: (item.label, item.classname) for item in dataset.test} == {
        f"{label}/a.jpeg": (label, f"name {label}") for label in range(12)
    }
    assert (dataset.train, dataset.val) == ((), ())
    (images / "7" / "a.jpeg").unlink()
    assert refusal(load, tmp_path / "imagenetv2", "imagenetv2") == f"{images / '7'}: class 'name 7' has no images"


@pytest.mark.parametrize("images", ["images", "sketch"])
def test_sketch_is_read_under_both_names(images: str, tmp_path: Path) -> None:
    folder = tmp_path / "imagenet-sketch"
    write_names(folder)
    for wnid in WNIDS:
        draw_images(folder / images / wnid, "sketch_1.JPEG")
    dataset = load(folder, "imagenet_sketch")
    assert [item.path for item in dataset.test] == [f"{wnid}/sketch_1.JPEG" for wnid in WNIDS]
    assert dataset.open_image(dataset.test[3]).mode == "RGB"


Adversarial = Callable[..., Path]


@pytest.fixture
def adversarial(tmp_path: Path) -> Adversarial:
    """An ImageNet-A of every fifth class, one image each; `deeper` puts it below datasets/."""

    def write(deeper: bool = False) -> Path:
        folder = (tmp_path / "datasets" if deeper else tmp_path) / "imagenet-adversarial"
        for wnid in list(bundled())[::5]:
            draw_images(folder / "imagenet-a" / wnid, "0.1_tench.jpg")
        return folder

    return write


@pytest.mark.parametrize("deeper", [False, True])
def test_imagenet_a_is_scored_among_its_own_200_classes(deeper: bool, adversarial: Adversarial, tmp_path: Path) -> None:
    folder = adversarial(deeper)
    (folder / "imagenet-a" / "README.txt").write_text("Natural adversarial examples\n")
    dataset = load_dataset("imagenet_a", str(tmp_path))
    names = bundled()
    wnids = list(names)[::5]
    assert dataset.classnames == tuple(names[wnid] for wnid in wnids)
    assert [item.label for item in dataset.test] == list(range(200))
    assert [item.path for item in dataset.test] == [f"{wnid}/0.1_tench.jpg" for wnid in wnids]


def test_a_with_a_class_missing_is_refused(adversarial: Adversarial) -> None:
    folder = adversarial()
    (folder / "imagenet-a" / list(bundled())[5]).rename(folder / "away")
    assert refusal(load, folder, "imagenet_a").startswith(
        f"{folder / 'imagenet-a'}: 199 class folders; imagenet_a has 200 classes"
    )


def test_imagenet_a_whose_readme_and_folders_disagree_is_refused(adversarial: Adversarial) -> None:
    folder = adversarial()
    readme = folder / "imagenet-a" / "README.txt"
    wnids = list(bundled())[::5]
    listed = [f"{wnid} some name" for wnid in wnids]
    readme.write_text("\n".join(["The classes are:", *listed, "n01443537 goldfish"]))
    assert refusal(load, folder, "imagenet_a") == f"{readme}: n01443537 is listed, but its folder is missing"
    readme.write_text("\n".join(listed[:-1]))
    assert refusal(load, folder, "imagenet_a") == f"{readme}: {wnids[-1]} has a folder, but is not listed"
    readme.write_text("\n".join(listed))
    assert len(load(folder, "imagenet_a").test) == 200


def test_a_folder_that_the_name_list_does_not_know_is_refused(adversarial: Adversarial) -> None:
    folder = adversarial()
    names = bundled()
    gone = list(names)[10]
    write_names(folder, {wnid: name for wnid, name in names.items() if wnid != gone})
    assert refusal(load, folder, "imagenet_a").startswith(f"{folder / 'imagenet-a' / gone}: {gone} is not a class of ")


def test_real_classes_of_a_and_r_are_200_each_in_the_bundled_names(test_data: Path) -> None:
    names = bundled()
    for name in ("a", "r"):
        wnids = (test_data / "names" / f"imagenet_{name}_wnids.txt").read_text().split()
        assert len(wnids) == 200
        assert set(wnids) <= set(names)
