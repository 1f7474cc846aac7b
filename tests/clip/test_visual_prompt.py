"""The image tower with prompt tokens: without tokens open_clip's features, with tokens those of its stock forward."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clip.backbone import Backbone, load_backbone
from clip.visual_prompt import PromptedVision, image_tower
from tests.helpers.towers import make_resnet, prompted_features
from utils.errors import UserError

DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return load_backbone("Mini", torch.device("cpu"))


def images(n: int = 5) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def tokens(B: int, layers: int, m: int, width: int) -> Tensor:
    return torch.randn(B, layers, m, width, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@DTYPES
@pytest.mark.parametrize("name", ["tiny", "mini"])
def test_without_tokens_it_is_encode_image(
    name: str, dtype: torch.dtype, tolerance: float, mini: Backbone, tiny_backbone: Backbone
) -> None:
    backbone = {"tiny": tiny_backbone, "mini": mini}[name]
    vision = PromptedVision(backbone, 1 << 30)
    features = vision(vision.embed(images(), dtype), torch.zeros(1, 1, 0, vision.width))
    expected = copy.deepcopy(backbone.model).to(dtype).encode_image(images().to(dtype), normalize=True)
    torch.testing.assert_close(features[0], expected, rtol=0, atol=tolerance)


@DTYPES
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_with_tokens_it_is_the_stock_forward_with_them_put_in(
    mini: Backbone, layers: int, dtype: torch.dtype, tolerance: float
) -> None:
    vision = PromptedVision(mini, 1 << 30)
    prompt = tokens(3, layers, 5, 128)
    features = vision(vision.embed(images(), dtype), prompt)
    assert features.dtype == dtype
    for found, own in zip(features, prompt, strict=True):
        torch.testing.assert_close(found.double(), prompted_features(mini, images(), own), rtol=0, atol=tolerance)
    assert (features[0] - features[1]).abs().max() > 1e-3


def test_watching_changes_nothing_and_sees_every_layer(mini: Backbone) -> None:
    vision, seen = PromptedVision(mini, 1 << 30), {}
    embedded, prompt = vision.embed(images(), torch.float64), tokens(1, 4, 2, 128)
    watched = vision(embedded, prompt, lambda layer, hidden: seen.setdefault(layer, hidden))
    torch.testing.assert_close(watched, vision(embedded, prompt), rtol=0, atol=1e-12)
    assert [hidden.shape for hidden in seen.values()] == [(5, 17 + 2, 128)] * 4


@pytest.mark.parametrize("memory_limit", [1, 1_000_000])
def test_features_do_not_depend_on_the_memory_limit(mini: Backbone, memory_limit: int) -> None:
    roomy, tight = (PromptedVision(mini, limit) for limit in (1 << 30, memory_limit))
    assert tight.chunk(22, torch.float32) < roomy.chunk(22, torch.float32)
    embedded, prompt = roomy.embed(images(7)), tokens(4, 1, 5, 128)
    torch.testing.assert_close(tight(embedded, prompt), roomy(embedded, prompt), rtol=0, atol=1e-6)


def test_a_resnet_is_refused() -> None:
    with pytest.raises(UserError, match=r"ViT.*tiny-resnet.*ModifiedResNet"):
        PromptedVision(make_resnet(), 1 << 30)


@DTYPES
@pytest.mark.parametrize("vit", [True, False])
def test_images_as_they_are_pass_any_tower(vit: bool, dtype: torch.dtype, tolerance: float, tiny_backbone: Backbone) -> None:
    backbone = tiny_backbone if vit else make_resnet()
    features = F.normalize(copy.deepcopy(backbone.model).to(dtype).encode_image(images().to(dtype)), dim=-1)
    found = image_tower(backbone, 2, 1 << 30)(images().to(dtype))
    torch.testing.assert_close(found, features, rtol=0, atol=tolerance)
