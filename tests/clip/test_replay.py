"""Small passes on CUDA are replayed as graphs; the graphs themselves are checked on a GPU by tools/maintain/gpu_check.sh."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clip import engine
from clip.backbone import Backbone
from clip.text import TextFeatures


class FakeReplay:
    """Imitates a graph: the same memory is used and filled each time."""

    made: list[torch.Size]

    def __init__(self, run: Callable[[Tensor], Tensor], example: Tensor):
        self.given = example.clone()
        # a recording works in the memory that it finds
        run(self.given)
        self.run = run
        self.made.append(example.shape)

    def __call__(self, given: Tensor) -> Tensor:
        self.given.copy_(given)
        return self.run(self.given)


@pytest.fixture
def replaying(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> TextFeatures:
    """Text features whose engine treats the CPU as a CUDA device."""
    text = TextFeatures(tiny_backbone, ["red square", "river"], "a photo of a", 1 << 30)
    FakeReplay.made = []
    monkeypatch.setattr(engine, "Replay", FakeReplay)
    monkeypatch.setattr(text.engine, "device", FakeDevice())
    monkeypatch.setattr(torch.Tensor, "to", keep_device(torch.Tensor.to))
    return text


class FakeDevice:
    type = "cuda"


def keep_device(to: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda tensor, *options: to(tensor, *(option for option in options if not isinstance(option, FakeDevice)))


def contexts(B: int, seed: int = 0) -> Tensor:
    return torch.randn(B, 4, 32, generator=torch.Generator().manual_seed(seed))


def test_a_graph_is_made_once_per_shape_and_its_features_are_those_of_a_pass(
    tiny_backbone: Backbone, replaying: TextFeatures
) -> None:
    plain = TextFeatures(tiny_backbone, ["red square", "river"], "a photo of a", 1 << 30)
    for B, seed in ((2, 0), (2, 1), (1, 2), (2, 3)):
        assert torch.equal(replaying(contexts(B, seed)), plain(contexts(B, seed)))
    assert [shape[0] for shape in FakeReplay.made] == [2, 1]


def test_large_and_differentiable_passes_are_not_replayed(replaying: TextFeatures, monkeypatch: pytest.MonkeyPatch) -> None:
    replaying(contexts(2).requires_grad_(True)).sum().backward()
    monkeypatch.setattr(engine, "REPLAYED_BELOW", 2 * len(replaying.engine.tree()))
    replaying(contexts(2))
    assert FakeReplay.made == []
    replaying(contexts(1))
    assert len(FakeReplay.made) == 1


def test_a_graph_keeps_its_memory_when_a_larger_pass_comes(replaying: TextFeatures) -> None:
    replaying(contexts(2))
    prepared = replaying.engine.prepared(torch.float32, False)
    (_, kept), *_ = prepared.replays.values()
    before = {name: buffer.data_ptr() for name, buffer in kept.items()}
    replaying.engine.replay = False
    replaying(contexts(40))
    assert before
    assert {name: buffer.data_ptr() for name, buffer in kept.items()} == before
    assert not {buffer.data_ptr() for buffer in prepared.buffers.values()} & set(before.values())
