"""The bundled icon sets: complete, unseen by the Icons backbones, licensed, and plain data."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from datasets import DATASETS
from datasets.icons import FOLDER, path_of, read_icon_file
from datasets.split import load_dataset
from utils.errors import UserError

NAMES = [name for name in DATASETS if name.startswith("icons_")]
FEW_SHOT = [name for name in NAMES if not DATASETS[name].evaluation_only]
SHIFTS = [name for name in NAMES if DATASETS[name].evaluation_only]
RULES = yaml.safe_load((FOLDER.parents[1] / "tools" / "maintain" / "icon_sets.yaml").read_text())


def rows(hashes: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in hashes}


@pytest.fixture(scope="module")
def training_hashes() -> set[bytes]:
    return rows(load_file(FOLDER / "training_hashes.safetensors")["hashes"])


@pytest.mark.parametrize("name", NAMES)
def test_a_set_has_the_sizes_of_the_registry_and_its_pictures_open(name):
    dataset = load_dataset(name, None)
    assert DATASETS[name].sizes == (len(dataset.classnames), len(dataset.train), len(dataset.val), len(dataset.test))
    for item in (*dataset.train[:2], *dataset.val[:2], *dataset.test[:3]):
        picture = dataset.open_image(item)
        assert picture.mode == "RGB" and picture.size == (32, 32)
        assert np.asarray(picture).std() > 0
        assert dataset.stamp(item)


@pytest.mark.parametrize("name", FEW_SHOT)
def test_every_class_has_its_shots_four_validation_and_ten_test_pictures(name):
    dataset = load_dataset(name, None)
    shots = RULES["sets"][name]["shots"]
    for part, least in (("train", shots), ("val", 4), ("test", 10)):
        counts = Counter(item.label for item in getattr(dataset, part))
        assert set(counts) == set(range(len(dataset.classnames))) and min(counts.values()) >= least


def test_at_least_six_sets_have_sixteen_shots():
    assert sum(RULES["sets"][name]["shots"] >= 16 for name in FEW_SHOT) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_no_picture_is_twice_in_a_set_or_looks_like_a_training_picture(name, training_hashes):
    tensors = load_file(path_of(name))
    file = read_icon_file(path_of(name))
    own = rows(tensors["hashes"])
    assert len(own) == len(file.pictures) == len(set(file.sources))
    assert not own & training_hashes
    assert len(training_hashes) > 200_000


def test_the_stored_hashes_are_those_of_the_stored_pictures():
    from tools.maintain.icon_pictures import picture_hash

    dataset = load_dataset("icons_arrows", None)
    tensors = load_file(path_of("icons_arrows"))
    for position, source in enumerate(read_icon_file(path_of("icons_arrows")).sources[:200]):
        item = next(item for part in (dataset.train, dataset.val, dataset.test) for item in part if item.path == source)
        pixels = np.asarray(dataset.open_image(item))
        if (pixels == pixels[..., :1]).all():
            black = np.concatenate([np.zeros_like(pixels), 255 - pixels[..., :1]], axis=2)
            if picture_hash(black)[:5] == tensors["hashes"][position].tobytes():
                continue
        # In color, transparency is not to be had back from a picture on white.
        assert source.split("/")[0] in {p for group in ("color", "emoji") for p in RULES["held_out"][group]}


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_from_held_out_icon_sets_only(name):
    held_out = {prefix for prefixes in RULES["held_out"].values() for prefix in prefixes}
    assert {source.split("/")[0] for source in read_icon_file(path_of(name)).sources} <= held_out


@pytest.mark.parametrize("name", FEW_SHOT)
def test_no_drawing_is_in_two_parts_of_a_set(name):
    from tools.maintain.icon_names import without_skin_tone

    dataset = load_dataset(name, None)

    def drawings(items) -> set[tuple[str, str, int]]:
        found = set()
        for item in items:
            prefix, words = item.path.split("/")
            found.add((RULES["family_of"].get(prefix, prefix), without_skin_tone(words.replace("-", " ")), item.label))
        return found

    assert not drawings(dataset.test) & (drawings(dataset.train) | drawings(dataset.val))


def test_the_source_trains_on_nothing_that_another_set_tests():
    source = load_dataset(RULES["source"], None)
    trained = {item.path for item in (*source.train, *source.val)}
    for name in FEW_SHOT:
        if name != RULES["source"]:
            assert not trained & {item.path for item in load_dataset(name, None).test}, name


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_draws_classes_of_the_source_by_other_icon_sets(name):
    source, shift = read_icon_file(path_of(RULES["source"])), read_icon_file(path_of(name))
    assert set(shift.classes) <= set(source.classes) and set(shift.parts) == {2}
    assert not {s.split("/")[0] for s in source.sources} & {s.split("/")[0] for s in shift.sources}


def test_the_license_list_names_every_icon_set_with_its_count():
    listed = dict(re.findall(r"^\| `([\w-]+)` \|.*\| (\d+) \|$", (FOLDER / "LICENSES.md").read_text(), re.MULTILINE))
    used = Counter(source.split("/")[0] for name in NAMES for source in read_icon_file(path_of(name)).sources)
    assert {prefix: int(count) for prefix, count in listed.items()} == used
    assert not re.search(r"GPL|NC", "".join(re.findall(r"\(([\w.-]+)\) \| \d+ \|$", (FOLDER / "LICENSES.md").read_text(), re.M)))


def test_the_files_are_small_and_hold_only_tensors_and_class_names():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 20e6
    for name in NAMES:
        with safe_open(path_of(name), "np") as file:
            assert set(file.metadata()) == {"classes"} and json.loads(file.metadata()["classes"])
            assert set(file.keys()) == {"pictures", "ends", "labels", "parts", "hashes", "sources"}
        assert all(data[:4] == b"RIFF" and data[8:12] == b"WEBP" for data in read_icon_file(path_of(name)).pictures)


@pytest.mark.parametrize("damage", ["cut", "labels", "no file"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, damage):
    path = tmp_path / "icons_food.safetensors"
    if damage == "cut":
        path.write_bytes(path_of("icons_food").read_bytes()[:5000])
    elif damage == "labels":
        tensors = load_file(path_of("icons_food"))
        tensors["labels"] = tensors["labels"] + 50
        save_file(tensors, path, metadata={"classes": json.dumps(read_icon_file(path_of("icons_food")).classes)})
    with pytest.raises(UserError, match=re.escape(str(path))):
        read_icon_file(path)
