"""Images are opened by their content; other files are refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.fewshot import draw_few_shot
from datasets.images import open_image
from datasets.split import load_dataset
from tests.helpers.data import refusal
from utils.seeds import sampling_generator


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


def test_file_that_is_not_an_image_is_refused_by_name(tmp_path: Path) -> None:
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
