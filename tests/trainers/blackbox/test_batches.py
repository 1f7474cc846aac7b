"""Mini-batches: every image once per epoch, equal for equal seeds, and their cost."""

from __future__ import annotations

import pytest
import torch

from trainers.blackbox.batches import FullBatch, MiniBatches
from trainers.blackbox.samples import Samples

IMAGES = Samples(torch.arange(10.0)[:, None], torch.arange(10))


def batches(size: int, seed: int = 0, fresh: bool = False, drop_last: bool = True) -> MiniBatches:
    generator = torch.Generator().manual_seed(seed)
    return MiniBatches(
        10, size=size, generator=generator, load=lambda which, number: IMAGES[which], fresh=fresh, drop_last=drop_last
    )


@pytest.mark.parametrize(
    ("size", "drop_last", "batches_per_epoch"), [(5, True, 2), (3, True, 3), (3, False, 4), (10, True, 1), (99, True, 1)]
)
def test_an_epoch_shows_no_image_twice(size: int, drop_last: bool, batches_per_epoch: int) -> None:
    source = batches(size, drop_last=drop_last)
    assert source.batches_per_epoch == batches_per_epoch
    for _ in range(3):
        seen = torch.cat([source().loaded.labels for _ in range(batches_per_epoch)]).tolist()
        assert len(seen) == len(set(seen))
        assert len(seen) == (10 if size in (5, 10, 99) or not drop_last else 9)


def test_epochs_differ_and_seeds_decide() -> None:
    source, again, other = batches(10), batches(10), batches(10, seed=1)
    first, second = source().loaded.labels, source().loaded.labels
    assert not torch.equal(first, second)
    assert torch.equal(again().loaded.labels, first)
    assert not torch.equal(other().loaded.labels, first)


def test_batches_are_numbered_from_zero() -> None:
    numbers: list[int] = []

    def load(which: torch.Tensor, number: int) -> Samples:
        numbers.append(number)
        return IMAGES[which]

    source = MiniBatches(10, size=5, generator=torch.Generator(), load=load, fresh=True)
    for _ in range(5):
        assert list(source().split(3))
    source()
    assert numbers == [0, 1, 2, 3, 4]


def test_cached_features_were_encoded_once_and_fresh_ones_each_time() -> None:
    cached, fresh = batches(5), batches(5, fresh=True)
    for _ in range(3):
        cached(), fresh()
    assert (cached.encoded, fresh.encoded) == (10, 15)
    assert FullBatch(IMAGES, 10).encoded == 10
