"""Picture sets: the bits of the backbone's own transform, in order, with no more kept than memory allows."""

from __future__ import annotations

import pytest
import torch
from open_clip.transform import image_transform

from clip.backbone import Backbone
from tests.helpers.pictures import make_task, pictures_of
from trainers.blackbox.pictures import Pictures, Preprocess

PICTURE = 3 * 32 * 32


def make_pictures(backbone: Backbone, memory: int) -> tuple[Pictures, torch.Tensor, torch.Tensor]:
    task = make_task(backbone, train=7)
    pictures = Pictures(task.dataset, task.train, Preprocess(backbone.preprocess), torch.device("cpu"), memory)
    expected = pictures_of(task, task.train)
    task.dataset.open_image.opened.clear()
    return pictures, *expected


@pytest.mark.parametrize("memory", [0, 3 * PICTURE, 100 * PICTURE])
@pytest.mark.parametrize("size", [1, 3, 50])
def test_pictures_are_the_transforms_to_the_bit_in_every_pass(tiny_backbone: Backbone, memory: int, size: int) -> None:
    pictures, expected, labels = make_pictures(tiny_backbone, memory)
    for _ in range(2):
        parts = list(pictures.split(size))
        assert [len(part) for part in parts] == [len(chunk) for chunk in labels.split(size)]
        assert torch.equal(torch.cat([part.inputs for part in parts]), expected)
        assert torch.equal(torch.cat([part.labels for part in parts]), labels)


@pytest.mark.parametrize("kept", [0, 3, 7])
def test_what_memory_has_room_for_is_decoded_once(tiny_backbone: Backbone, kept: int) -> None:
    pictures, _, _ = make_pictures(tiny_backbone, kept * PICTURE + 1)
    opened = pictures.dataset.open_image.opened
    list(pictures.split(4))
    assert sorted(opened) == [f"train/{i}" for i in range(7)]
    opened.clear()
    list(pictures.split(4))
    assert sorted(opened) == [f"train/{i}" for i in range(kept, 7)]


def test_positions_pick_pictures(tiny_backbone: Backbone) -> None:
    pictures, expected, labels = make_pictures(tiny_backbone, 2 * PICTURE)
    which = torch.tensor([5, 0, 5])
    assert torch.equal(pictures[which].inputs, expected[which])
    assert torch.equal(pictures[which].labels, labels[which])


def test_valid_range_is_that_of_clips_normalization() -> None:
    low, high = Preprocess(image_transform(224, is_train=False)).valid_range()
    assert low.flatten().tolist() == pytest.approx([-1.7923, -1.7521, -1.4802], abs=1e-4)
    assert high.flatten().tolist() == pytest.approx([1.9303, 2.0749, 2.1459], abs=1e-4)
