"""Published few-shot lists of other authors: ours are equal, item for item or position for position."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from datasets import DATASETS
from datasets.fewshot import draw_few_shot
from datasets.split import Dataset, Item, class_names, read_split
from utils.seeds import sampling_generator

SHOTS = (1, 2, 4, 8, 16)
WITH_SPLIT = ("caltech101", "dtd", "eurosat", "oxford_flowers")
# fewest and most images of a class in train and in val, for datasets without a split file here
SIZES = {
    "food101": ((500, 500), (200, 200)),
    "sun397": ((40, 40), (10, 10)),
    "fgvc_aircraft": ((33, 34), (33, 34)),
    "oxford_pets": ((74, 80), (19, 20)),
    "stanford_cars": ((19, 54), (5, 14)),
    "ucf101": ((58, 97), (14, 24)),
}


def published(folder: Path, name: str, shots: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Seed and lists: for train and val the items ("data") and their positions in the split's list ("indices")."""
    files = sorted((folder / "fewshot_indices" / name).glob(f"shot_{shots}-seed_*.json.gz"))
    assert files
    for file in files:
        yield int(file.name.removesuffix(".json.gz").rpartition("_")[2]), json.loads(gzip.decompress(file.read_bytes()))


@pytest.mark.parametrize("shots", SHOTS)
@pytest.mark.parametrize("name", WITH_SPLIT)
def test_list_drawn_from_a_split_at_hand_is_the_same_item_for_item(name: str, shots: int, test_data: Path) -> None:
    info = DATASETS[name]
    parts = read_split(test_data / "splits" / info.split)
    dataset = Dataset(name, class_names(parts, info.split), *parts, open_image=None)
    prefix = f"./data/{info.folder}/{info.images}/"
    for seed, theirs in published(test_data, name, shots):
        for part, drawn in zip(("train", "val"), draw_few_shot(dataset, shots, sampling_generator(seed)), strict=True):
            entries = theirs[part]["data"]
            assert all(entry["impath"].startswith(prefix) for entry in entries)
            expected = [Item(entry["impath"].removeprefix(prefix), entry["label"], entry["classname"]) for entry in entries]
            assert drawn == expected


def solve_sizes(blocks: Sequence[Sequence[int]], limits: tuple[int, int], generator: random.Random) -> list[int]:
    """Sizes of the classes, in the list's order, from which a draw by the rule gives these positions.

    One draw can come from several sizes; the next class's positions, which start after this one, tell which it was.
    """

    def search(number: int, offset: int, state: Any) -> list[int] | None:
        if number == len(blocks):
            return []
        for size in range(limits[0], limits[1] + 1):
            generator.setstate(state)
            if [offset + position for position in generator.sample(range(size), len(blocks[number]))] == blocks[number]:
                rest = search(number + 1, offset + size, generator.getstate())
                if rest is not None:
                    return [size, *rest]
        return None

    sizes = search(0, 0, generator.getstate())
    assert sizes is not None, "no class sizes give this list"
    return sizes


def in_blocks(positions: Sequence[int], shots: int) -> list[list[int]]:
    return [list(positions[start : start + shots]) for start in range(0, len(positions), shots)]


@pytest.mark.parametrize("name", SIZES)
def test_lists_drawn_from_known_class_sizes_are_the_same_by_position(name: str, test_data: Path) -> None:
    """Unknown sizes are inferred from the lists of 16 shots; with them, every list must be reproduced."""
    seed, longest = next(published(test_data, name, 16))
    generator = sampling_generator(seed)
    train_sizes = solve_sizes(in_blocks(longest["train"]["indices"], 16), SIZES[name][0], generator)
    redraw(train_sizes, 16, generator := sampling_generator(seed))
    val_sizes = solve_sizes(in_blocks(longest["val"]["indices"], 4), SIZES[name][1], generator)
    known = DATASETS[name].sizes
    assert len(train_sizes) == known.classes
    labels = [entry["label"] for entry in longest["train"]["data"][::16]]
    train = tuple(Item(str(n), label, str(label)) for n, label in enumerate_blocks(train_sizes, labels))
    val = tuple(Item(str(n), label, str(label)) for n, label in enumerate_blocks(val_sizes, labels))
    dataset = Dataset(name, tuple(map(str, range(known.classes))), train, val, (), open_image=None)
    for shots in SHOTS:
        for seed, theirs in published(test_data, name, shots):
            for part, drawn in zip(("train", "val"), draw_few_shot(dataset, shots, sampling_generator(seed)), strict=True):
                assert [int(item.path) for item in drawn] == theirs[part]["indices"]
                assert [item.label for item in drawn] == [entry["label"] for entry in theirs[part]["data"]]


def redraw(sizes: Sequence[int], shots: int, generator: random.Random) -> None:
    for size in sizes:
        generator.sample(range(size), shots)


def enumerate_blocks(sizes: Sequence[int], labels: Sequence[int]) -> Iterator[tuple[int, int]]:
    return enumerate(label for size, label in zip(sizes, labels, strict=True) for _ in range(size))
