"""A class name that exceeds the text tower's length is truncated; the trained context never is, at any position of the name."""

from __future__ import annotations

import pytest
import torch

from clip.prompt import context_embeddings
from clip.text import TextFeatures
from tests.conftest import make_tiny_backbone

INIT = "a photo of a"
LONG = " ".join(["river"] * 200)


@pytest.mark.parametrize("position", ["front", "middle", "end"])
@pytest.mark.parametrize("engine", ["fast", "stock"])
def test_every_context_token_reaches_the_feature_of_a_name_that_is_cut(engine: str, position: str) -> None:
    backbone = make_tiny_backbone()
    text = TextFeatures(backbone, ["river", LONG], INIT, 1 << 30, engine, position)
    context = context_embeddings(backbone, INIT)
    contexts = context.repeat(len(context) + 1, 1, 1)
    noise = torch.randn(context.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for token in range(len(context)):
        contexts[token + 1, token] += noise[token]
    with torch.inference_mode():
        features = text(contexts, torch.float64)[:, 1]
    changes = (features[1:] - features[0]).norm(dim=-1)
    assert bool((changes > 1e-6).all()), changes


@pytest.mark.parametrize("position", ["front", "middle"])
def test_both_engines_agree_on_a_name_that_is_cut(position: str) -> None:
    backbone = make_tiny_backbone()
    contexts = context_embeddings(backbone, INIT)[None]
    with torch.inference_mode():
        fast, stock = (
            TextFeatures(backbone, ["river", LONG], INIT, 1 << 30, engine, position)(contexts, torch.float64)
            for engine in ("fast", "stock")
        )
    assert torch.allclose(fast, stock, atol=1e-9)
