"""Depth, transparency, orientation and shape: an image is read as a viewer shows it, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip.backbone import load_backbone
from datasets.images import open_image
from datasets.split import load_dataset
from tests.helpers.data import refusal

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ("name", "deep"),
    [
        ("a.png", RAMP.astype(np.uint16) * 257),
        ("a.tif", RAMP.astype(np.uint16) * 257),
        ("unit.tif", (RAMP / 255).astype(np.float32)),
        ("bytes.tif", RAMP.astype(np.float32)),
        ("int.tif", RAMP.astype(np.int32)),
        ("long.tif", RAMP.astype(np.int32) * 257),
    ],
)
def test_deep_gray_has_the_levels_of_its_8_bit_version(name: str, deep: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(deep).save(tmp_path / name)
    for as_displayed in (True, False):
        assert np.array_equal(np.asarray(open_image(tmp_path / name, as_displayed))[..., 0], RAMP)


def test_16_bit_pgm_is_scaled_by_its_declared_range(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5\n16 16\n65535\n" + (RAMP.astype(">u2") * 257).tobytes())
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.pgm"))[..., 0], RAMP)


@pytest.mark.parametrize("values", [-5.0, 1e6, np.nan, np.inf])
def test_float_picture_of_unknown_range_is_refused_by_name(values: float, tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), values, np.float32)).save(tmp_path / "a.tif")
    assert refusal(open_image, tmp_path / "a.tif").startswith(f"{tmp_path / 'a.tif'}: not a readable image: its ")


def test_tiff_of_many_bands_is_refused_by_its_bands(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    content = path.read_bytes()
    # the directory's entry SamplesPerPixel (277, SHORT, 1 value): 3 becomes 13
    entry = (277).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    assert content.count(entry + b"\x03\0") == 1
    path.write_bytes(content.replace(entry + b"\x03\0", entry + b"\x0d\0"))
    assert "a TIFF of 13 bands with 8 bits per sample" in refusal(open_image, path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_upright_for_displayed_images(orientation: int, tmp_path: Path) -> None:
    picture, exif = Image.fromarray(RAMP[:4, :8]), Image.Exif()
    exif[0x0112] = orientation
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = picture.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else picture
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png"))[..., 0], RAMP[:4, :8])
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png", as_displayed=False))[..., 0], np.asarray(stored))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
def test_transparent_parts_are_white_for_displayed_images(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if mode in ("RGBA", "LA"):
        Image.new(mode, (4, 4), 0).save(path)
    else:
        Image.new(mode, (4, 4), 0).save(path, transparency=0)
    assert open_image(path).getpixel((1, 1)) == (255, 255, 255)
    assert open_image(path, as_displayed=False).getpixel((1, 1)) == (0, 0, 0)


def test_avif_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.jpg", "AVIF")
    assert open_image(tmp_path / "a.jpg").getpixel((3, 3))[0] > 240


def test_folders_are_read_as_displayed_and_coops_datasets_as_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for n in range(4):
            Image.new("RGB", (8, 4)).save(tmp_path / name / f"{n}.jpg", exif=exif)
    (tmp_path / "eurosat").mkdir()
    (tmp_path / "eurosat" / "2750").symlink_to(tmp_path / "ant")
    (tmp_path / "eurosat" / "split_zhou_EuroSAT.json").write_text(
        '{"train": [["0.jpg", 0, "ant"]], "val": [["1.jpg", 0, "ant"]], "test": [["2.jpg", 0, "ant"]]}'
    )
    (tmp_path / "mine").mkdir()
    for name in ("ant", "bee"):
        (tmp_path / name).rename(tmp_path / "mine" / name)
    (tmp_path / "eurosat" / "2750").unlink()
    (tmp_path / "eurosat" / "2750").symlink_to(tmp_path / "mine" / "ant")
    folder, coop = load_dataset("folder", str(tmp_path / "mine")), load_dataset("eurosat", str(tmp_path))
    assert folder.open_image(folder.test[0]).size == (4, 8)
    assert coop.open_image(coop.test[0]).size == (8, 4)


def test_a_thin_image_is_cropped_to_its_middle_before_resizing() -> None:
    import torch

    preprocess = load_backbone("Mini", torch.device("cpu")).preprocess
    line = np.zeros((1, 2_000_000), np.uint8)
    line[:, 1_000_000:] = 255
    row = preprocess(Image.fromarray(line).convert("RGB"))[0, 16]
    assert row.shape == (32,)
    assert row[0] < row[-1]
    # an image that is slightly less thin goes through the unchanged transform
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 320, 3), np.uint8))
    assert torch.equal(preprocess(picture), preprocess.transform(picture))
