"""Small data that the tests of datasets write or generate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.split import Dataset, Item
from utils.errors import UserError


def refusal(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert message.strip()
    assert len(message.splitlines()) == 1
    return message


def made_up(per_class: int, val_per_class: int, classes: Iterable[int] = (2, 0, 1)) -> Dataset:
    """A dataset of three classes, interleaved, that first appear out of label order."""
    names = ("ant", "bee", "cow")
    train = tuple(Item(f"{names[c]}/{n}", c, names[c]) for n in range(per_class) for c in classes)
    val = tuple(Item(f"val/{names[c]}/{n}", c, names[c]) for n in range(val_per_class) for c in classes)
    return Dataset("made-up", names, train, val, (), lambda item: Image.new("RGB", (8, 8)))


def draw_images(folder: Path, *names: str) -> None:
    """Small images of noise, all different, at `names` below `folder`; a crop differs from the whole image."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, "PNG")
