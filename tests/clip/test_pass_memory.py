"""The engine's memory model bounds what a pass allocates, by less than a factor of 2.5."""

from __future__ import annotations

import pytest
import torch

from clip.text import TextFeatures
from tests.conftest import make_tiny_backbone
from tools.common.pass_memory import most_allocated

LIMIT = 64 << 20


def test_allocations_are_counted_while_they_are_held_together() -> None:
    def work() -> None:
        for _ in range(3):  # one at a time: 4 MB, not 12
            torch.ones(1_000_000)
        first, second = torch.ones(1_000_000), torch.ones(1_000_000)
        del first, second

    assert 8_000_000 <= most_allocated(work, torch.device("cpu")) < 9_000_000


@pytest.mark.parametrize("names", [["cat", "dog"], [f"Boeing 737-{i}00" for i in range(40)]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_modeled_size_of_a_pass_bounds_what_it_allocates(names: list[str], dtype: torch.dtype) -> None:
    backbone = make_tiny_backbone(width=128, heads=4, layers=3)
    fast = TextFeatures(backbone, names, "a photo of a", LIMIT, "fast")
    assert fast.engine is not None
    contexts = torch.zeros(fast.chunk(dtype), 4, 128, dtype=dtype)
    modeled = fast.engine.pass_bytes(dtype)
    allocated = most_allocated(lambda: fast(contexts, dtype), torch.device("cpu"))
    assert modeled <= LIMIT
    assert 0.4 * modeled < allocated < 1.05 * modeled
