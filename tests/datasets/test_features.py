"""Image features: the same bits with and without the cache, for any number of workers, and never from a stale entry."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clip.backbone import Backbone
from datasets import digests as digests_module
from datasets import features as features_module
from datasets.augment import RandomView, crop_box
from datasets.cache import FeatureCache, default_folder
from datasets.digests import Digests
from datasets.features import FeatureReader, check_images
from datasets.split import Dataset, Item, load_dataset, of_files
from tests.conftest import make_tiny_backbone
from tests.helpers.data import refusal
from utils import parallel
from utils.seeds import numpy_generator


def noise(path: Path, seed: int, width: int = 40, height: int = 36) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = numpy_generator(seed, "picture").integers(0, 256, (height, width, 3)).astype("uint8")
    Image.fromarray(pixels).save(path, "PNG")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Eleven files of noise in one class; items in train."""
    images = tmp_path / "images"
    items = [Item(f"{number}.jpg", 0, "noise") for number in range(11)]
    for number, item in enumerate(items):
        noise(images / item.path, number)
    return of_files("noise", ["noise"], (items, [], []), images)


class Counting:
    """A backbone that counts the images it encodes and records warnings; reads with a cache in `folder`."""

    def __init__(self, backbone: Backbone, folder: Path | None):
        self.backbone = backbone
        self.name, self.preprocess, self.device = backbone.name, backbone.preprocess, backbone.device
        self.fingerprint = backbone.fingerprint
        self.folder = folder
        self.encoded = 0
        self.warnings: list[str] = []

    def encode_images(self, images: Tensor) -> Tensor:
        self.encoded += len(images)
        return self.backbone.encode_images(images)

    def reader(self, dataset: Dataset, batch_size: int = 4) -> FeatureReader:
        cache = FeatureCache(self.folder, self.warnings.append) if self.folder else None
        return FeatureReader(dataset, self, batch_size, cache)

    def read(self, dataset: Dataset, batch_size: int = 4, view: RandomView | None = None) -> Tensor:
        features, labels = self.reader(dataset, batch_size)(dataset.train, "images", view)
        assert labels.tolist() == [item.label for item in dataset.train]
        return features


@pytest.fixture
def counting(tiny_backbone: Backbone, tmp_path: Path) -> Counting:
    return Counting(tiny_backbone, tmp_path / "cache")


def entries(counting: Counting) -> list[Path]:
    return sorted(path for path in counting.folder.iterdir() if path.name != "digests.json")


def test_features_are_the_bits_of_each_batch_through_the_tower(dataset: Dataset, tiny_backbone: Backbone) -> None:
    read = Counting(tiny_backbone, None).read(dataset)
    pictures = [tiny_backbone.preprocess(dataset.open_image(item)) for item in dataset.train]
    expected = torch.cat([tiny_backbone.encode_images(torch.stack(pictures[start : start + 4])) for start in (0, 4, 8)])
    assert torch.equal(read, expected)
    assert torch.allclose(read.norm(dim=1), torch.ones(11), atol=1e-5)


def test_second_reading_is_the_same_bits_and_encodes_nothing(dataset: Dataset, counting: Counting) -> None:
    without = Counting(counting.backbone, None).read(dataset)
    first, encoded = counting.read(dataset), counting.encoded
    second = counting.read(dataset)
    assert torch.equal(first, second)
    assert torch.equal(first, without)
    assert (encoded, counting.encoded, counting.warnings) == (11, 11, [])
    assert [path.suffix for path in entries(counting)] == [".safetensors"]


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_number_of_workers_changes_no_bit(
    workers: int, dataset: Dataset, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Counting(tiny_backbone, None).read(dataset, view=RandomView(1, 0, (32, 32), 0.5))
    monkeypatch.setattr(parallel, "usable_cores", lambda: workers)
    assert torch.equal(Counting(tiny_backbone, None).read(dataset, view=RandomView(1, 0, (32, 32), 0.5)), expected)


def test_a_rewritten_picture_of_the_same_size_and_time_makes_a_new_entry(
    dataset: Dataset, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests_module, "SETTLED", -1.0)
    path = counting.folder.parent / "images" / "3.jpg"
    pictures = [np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8) for seed in (5, 6)]
    Image.fromarray(pictures[0]).save(path, "BMP")
    counting.read(dataset)
    status = path.stat()
    Image.fromarray(pictures[1]).save(path, "BMP")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    again = counting.read(dataset)
    assert counting.encoded == 22
    assert torch.equal(again, Counting(counting.backbone, None).read(dataset))
    assert len(entries(counting)) == 2


def test_new_times_and_another_folder_find_the_same_entry(dataset: Dataset, counting: Counting) -> None:
    counting.read(dataset)
    images = counting.folder.parent / "images"
    os.utime(images / "3.jpg", ns=(5, 5))
    counting.read(dataset)
    shutil.copytree(images, counting.folder.parent / "copy")
    counting.read(of_files("noise", ["noise"], (dataset.train, [], []), counting.folder.parent / "copy"))
    assert counting.encoded == 11
    assert len(entries(counting)) == 1


def test_an_unchanged_file_is_read_once_and_a_fresh_one_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, hashed = tmp_path / "a.jpg", []
    path.write_bytes(b"some bytes")
    monkeypatch.setattr(digests_module, "sha256", lambda file: hashed.append(file) or "0" * 64)
    for settled, expected in ((3600.0, 2), (-1.0, 3)):
        monkeypatch.setattr(digests_module, "SETTLED", settled)
        for _ in range(2):
            digests = Digests(tmp_path / "cache", print)
            digests(path)
            digests.save()
        assert len(hashed) == expected


def test_other_weights_transform_name_batch_size_threads_or_order_make_new_entries(dataset: Dataset, counting: Counting) -> None:
    counting.read(dataset)
    counting.read(dataset, batch_size=5)
    other = Counting(make_tiny_backbone(seed=1), counting.folder)
    other.read(dataset)
    bigger = Counting(counting.backbone, counting.folder)
    bigger.preprocess = lambda image: counting.backbone.preprocess(image.rotate(90))
    bigger.read(dataset)
    counting.name = "of another architecture"
    counting.read(dataset)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        counting.read(dataset)
    finally:
        torch.set_num_threads(before)
    turned = of_files("noise", ["noise"], (dataset.train[::-1], [], []), counting.folder.parent / "images")
    assert not torch.equal(counting.read(turned), counting.read(dataset))
    assert len(entries(counting)) == 7


@pytest.mark.parametrize("length", [0, 1, 7, 100, -1])
def test_truncated_entry_is_computed_again_with_a_warning(length: int, dataset: Dataset, counting: Counting) -> None:
    first = counting.read(dataset)
    path = entries(counting)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    assert torch.equal(counting.read(dataset), first)
    assert counting.encoded == 22
    assert len(counting.warnings) == 1
    assert counting.warnings[0].startswith(f"{path}: damaged entry of the feature cache")
    assert torch.equal(counting.read(dataset), first)
    assert counting.encoded == 22


def test_single_flipped_bit_anywhere_is_noticed(dataset: Dataset, counting: Counting) -> None:
    first = counting.read(dataset)
    path = entries(counting)[0]
    whole = path.read_bytes()
    for position in range(0, len(whole), 41):
        damaged = bytearray(whole)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        assert torch.equal(counting.read(dataset), first), position


def test_entry_under_another_key_is_not_believed(dataset: Dataset, counting: Counting) -> None:
    first = counting.read(dataset)
    counting.read(dataset, batch_size=5)
    one, two = entries(counting)
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(kept)
    assert torch.equal(counting.read(dataset), first)
    assert "its checksum is wrong" in counting.warnings[0]


def test_interrupted_pass_resumes(dataset: Dataset, counting: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Counting(counting.backbone, None).read(dataset)
    monkeypatch.setattr(features_module, "BATCHES_PER_ENTRY", 1)
    path = counting.folder.parent / "images" / "9.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    assert refusal(counting.read, dataset).startswith(f"{path}: not a readable image: ")
    assert (counting.encoded, len(entries(counting))) == (8, 2)
    path.write_bytes(whole)
    assert torch.equal(counting.read(dataset), expected)
    assert (counting.encoded, len(entries(counting))) == (11, 3)


def test_runs_at_once_leave_one_whole_entry(dataset: Dataset, counting: Counting) -> None:
    results: list[Tensor] = []
    readers = [threading.Thread(target=lambda: results.append(counting.read(dataset))) for _ in range(6)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(results) == 6
    assert all(torch.equal(result, results[0]) for result in results)
    assert len(entries(counting)) == 1
    assert counting.warnings == []
    done = counting.encoded
    counting.read(dataset)
    assert counting.encoded == done


def test_folder_that_cannot_be_written_is_a_warning(dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    counting = Counting(tiny_backbone, tmp_path / "file" / "cache")
    assert torch.equal(counting.read(dataset), Counting(tiny_backbone, None).read(dataset))
    assert [warning.startswith(f"--cache_dir: {counting.folder}: ") for warning in counting.warnings] == [True]


def test_image_that_changes_while_it_is_read_is_not_cached(dataset: Dataset, counting: Counting) -> None:
    encode = counting.encode_images

    def meddle(images: Tensor) -> Tensor:
        noise(counting.folder.parent / "images" / "0.jpg", 77)
        return encode(images)

    counting.encode_images = meddle
    counting.read(dataset)
    assert not counting.folder.exists() or not entries(counting)


def test_bundled_digits_are_cached_by_their_pixels(counting: Counting) -> None:
    digits = load_dataset("digits", None)
    assert len({digits.stamp(item) for item in digits.test}) == len(digits.test)
    reader = counting.reader(digits, 64)
    first = reader(digits.val[:20], "images")[0]
    assert torch.equal(counting.reader(digits, 64)(digits.val[:20], "images")[0], first)
    assert counting.encoded == 20


def test_default_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "sharpzo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "sharpzo"


def test_no_more_than_two_batches_are_held(dataset: Dataset, tiny_backbone: Backbone) -> None:
    started: list[int] = []
    used = 0

    def decode(number: int) -> Tensor:
        started.append(number)
        return torch.full((1, 1, 1), float(number))

    for batch in features_module._decoded(range(100), decode, 8):
        assert batch.flatten().tolist() == list(range(used, min(used + 8, 100)))
        used += len(batch)
        assert len(started) <= used + 8
    assert used == 100


def test_missing_images_are_reported_before_any_is_read(dataset: Dataset, tmp_path: Path) -> None:
    check_images(dataset, dataset.train)
    for number in (2, 5, 6):
        (tmp_path / "images" / f"{number}.jpg").unlink()
    assert refusal(check_images, dataset, dataset.train) == (
        f"{tmp_path / 'images' / '2.jpg'}: the image is missing; and 2 more of the 11 images that the run reads"
    )
    (tmp_path / "images" / "1.jpg").write_bytes(b"")
    assert refusal(check_images, dataset, dataset.train[:2]) == (
        f"{tmp_path / 'images' / '1.jpg'}: not a readable image: the file is empty"
    )
    (tmp_path / "images").rename(tmp_path / "away")
    assert f"(folder {tmp_path / 'images'} does not exist)" in refusal(check_images, dataset, dataset.train)


def test_views_follow_one_another_and_are_cached_separately(dataset: Dataset, counting: Counting) -> None:
    views = [RandomView(1, number, (32, 32), 0.5) for number in range(3)]
    both, labels = counting.reader(dataset).of_views(dataset.train, "images", views[:2])
    assert both.shape[0] == len(labels) == 22
    assert torch.equal(both[:11], counting.read(dataset, view=views[0]))
    assert not torch.equal(both[:11], both[11:])
    assert counting.encoded == 22
    three, _ = counting.reader(dataset).of_views(dataset.train, "images", views)
    assert torch.equal(three[:22], both)
    assert counting.encoded == 33
    plain, _ = counting.reader(dataset).of_views(dataset.train, "images", [])
    assert torch.equal(plain, counting.read(dataset))


def test_view_depends_on_seed_number_and_item_alone(dataset: Dataset) -> None:
    picture, item = dataset.open_image(dataset.train[0]), dataset.train[0]

    def pixels(seed: int, view: int, of: Item = item) -> bytes:
        return RandomView(seed, view, (32, 32), 0.5)(picture, of).tobytes()

    assert pixels(1, 0) == pixels(1, 0)
    assert len({pixels(1, 0), pixels(2, 0), pixels(1, 1), pixels(1, 0, dataset.train[1])}) == 4


@pytest.mark.parametrize("scale", [0.5, 0.08])
def test_crops_have_the_permitted_area_and_aspect_ratio(scale: float) -> None:
    uniform = numpy_generator(1, "crops").uniform
    shares, ratios = [], []
    for _ in range(2000):
        left, top, width, height = crop_box(500, 375, scale, uniform)
        assert 0 <= left <= 500 - width
        assert 0 <= top <= 375 - height
        shares.append(width * height / (500 * 375))
        ratios.append(width / height)
    assert scale - 0.01 < min(shares) < scale + 0.05
    assert max(shares) > 0.9
    assert 0.74 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.35


def test_image_too_long_for_any_crop_gives_its_middle() -> None:
    assert crop_box(1000, 10, 0.9, numpy_generator(1, "crops").uniform) == (493, 0, 13, 10)
    assert crop_box(10, 1000, 0.9, numpy_generator(1, "crops").uniform) == (0, 493, 10, 13)


def test_half_of_the_views_are_mirrored() -> None:
    ramp = Image.linear_gradient("L").rotate(90).convert("RGB")
    views = [RandomView(1, number, (8, 8), 0.5)(ramp, Item("ramp", 0, "ramp")) for number in range(200)]
    mirrored = sum(view.getpixel((0, 4))[0] < view.getpixel((7, 4))[0] for view in views)
    assert 70 < mirrored < 130
