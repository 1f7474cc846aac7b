"""A tiny CLIP with a projected prompt as a black box, for tests of objectives and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clip.backbone import Backbone
from clip.prompt import context_embeddings, make_projection
from clip.text import TextFeatures
from tests.conftest import CLASSNAMES
from trainers.blackbox.objective import Objective
from trainers.blackbox.samples import Samples
from trainers.blackbox.text_prompt import TextPrompt

INIT = "a photo of a"
D = 8
engines = pytest.mark.parametrize("engine", ["fast", "stock"])
PROMPTS = [f"{INIT} {name}.".replace("_", " ") for name in CLASSNAMES]


def make_images(n: int = 23, width: int = 24) -> Samples:
    generator = torch.Generator().manual_seed(1)
    features = F.normalize(torch.randn(n, width, generator=generator), dim=-1)
    return Samples(features, torch.randint(len(CLASSNAMES), (n,), generator=generator))


def make_objective(backbone: Backbone, precision: str = "auto", memory_limit: int = 1 << 30, engine: str = "fast") -> Objective:
    projection = make_projection(context_embeddings(backbone, INIT), D, 0.2, torch.Generator().manual_seed(0))
    text = TextFeatures(backbone, CLASSNAMES, INIT, memory_limit, engine)
    images = make_images()
    model = TextPrompt(
        projection.contexts,
        text_features=text,
        logit_scale=backbone.logit_scale,
        classes=len(CLASSNAMES),
        width=24,
        memory_limit=memory_limit,
    )
    return Objective(model, lambda: images, precision)


def points(B: int) -> Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@contextmanager
def no_autograd_graph() -> Iterator[None]:
    """Fails if an operation saves a tensor for a backward pass."""

    def pack(tensor: Tensor) -> Tensor:
        raise AssertionError(f"a tensor of shape {tuple(tensor.shape)} was saved for a backward pass")

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
