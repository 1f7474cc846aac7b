"""Image sets: the bits of the backbone's own transform, in order, with no more in memory than the limit allows."""

from __future__ import annotations

import pytest
import torch
from open_clip.transform import image_transform

from clip.backbone import Backbone
from tests.helpers.images import images_of, make_task
from trainers.blackbox.images import ImageSet, Preprocess

IMAGE = 3 * 32 * 32


def make_images(backbone: Backbone, memory: int) -> tuple[ImageSet, torch.Tensor, torch.Tensor]:
    task = make_task(backbone, train=7)
    images = ImageSet(
        task.dataset,
        items=task.train,
        preprocess=Preprocess(backbone.preprocess),
        device=torch.device("cpu"),
        memory=memory,
    )
    expected = images_of(task, task.train)
    task.dataset.open_image.opened.clear()
    return images, *expected


@pytest.mark.parametrize("memory", [0, 3 * IMAGE, 100 * IMAGE])
@pytest.mark.parametrize("size", [1, 3, 50])
def test_images_are_the_transforms_to_the_bit_in_every_pass(tiny_backbone: Backbone, memory: int, size: int) -> None:
    images, expected, labels = make_images(tiny_backbone, memory)
    for _ in range(2):
        parts = list(images.split(size))
        assert [len(part) for part in parts] == [len(chunk) for chunk in labels.split(size)]
        assert torch.equal(torch.cat([part.inputs for part in parts]), expected)
        assert torch.equal(torch.cat([part.labels for part in parts]), labels)


@pytest.mark.parametrize("kept", [0, 3, 7])
def test_what_memory_has_room_for_is_decoded_once(tiny_backbone: Backbone, kept: int) -> None:
    images, _, _ = make_images(tiny_backbone, kept * IMAGE + 1)
    opened = images.dataset.open_image.opened
    list(images.split(4))
    assert sorted(opened) == [f"train/{i}" for i in range(7)]
    opened.clear()
    list(images.split(4))
    assert sorted(opened) == [f"train/{i}" for i in range(kept, 7)]


def test_positions_pick_images(tiny_backbone: Backbone) -> None:
    images, expected, labels = make_images(tiny_backbone, 2 * IMAGE)
    which = torch.tensor([5, 0, 5])
    assert torch.equal(images[which].inputs, expected[which])
    assert torch.equal(images[which].labels, labels[which])


def test_valid_range_is_that_of_clips_normalization() -> None:
    low, high = Preprocess(image_transform(224, is_train=False)).valid_range()
    assert low.flatten().tolist() == pytest.approx([-1.7923, -1.7521, -1.4802], abs=1e-4)
    assert high.flatten().tolist() == pytest.approx([1.9303, 2.0749, 2.1459], abs=1e-4)
