"""The image tower with prompt tokens: open_clip's features without any, and those of its stock forward with them put in."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn

from clip.backbone import Backbone, load_backbone
from clip.visual_prompt import PromptedVision, image_tower
from tests.conftest import make_tiny_backbone
from utils.errors import UserError

DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return load_backbone("Mini", torch.device("cpu"))


def make_resnet() -> Backbone:
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    tiny = make_tiny_backbone()
    model = CLIP(24, vision, text).eval().requires_grad_(False)
    return Backbone("tiny-resnet", model, tiny.tokenizer, tiny.preprocess, tiny.device)


def pictures(n: int = 5) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def tokens(B: int, layers: int, m: int, width: int) -> Tensor:
    return torch.randn(B, layers, m, width, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def reference(backbone: Backbone, images: Tensor, prompt: Tensor) -> Tensor:
    """open_clip's encode_image in float64, with tokens (L, m, width) put into the inputs of its modules on the way."""
    model = copy.deepcopy(backbone.model).double()
    prompt = prompt.expand(len(images), *prompt.shape)

    def append(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (torch.cat([args[0], prompt[:, 0]], 1),)

    model.visual.ln_pre.register_forward_pre_hook(append)
    for layer in range(1, prompt.shape[1]):

        def exchange(module: nn.Module, args: tuple[Tensor], layer: int = layer) -> tuple[Tensor]:
            return (torch.cat([args[0][:, : -prompt.shape[2]], prompt[:, layer]], 1),)

        model.visual.transformer.resblocks[layer].register_forward_pre_hook(exchange)
    with torch.no_grad():
        return model.encode_image(images.double(), normalize=True)


@DTYPES
@pytest.mark.parametrize("name", ["tiny", "mini"])
def test_without_tokens_it_is_encode_image(
    name: str, dtype: torch.dtype, tolerance: float, mini: Backbone, tiny_backbone: Backbone
) -> None:
    backbone = {"tiny": tiny_backbone, "mini": mini}[name]
    vision = PromptedVision(backbone, 1 << 30)
    features = vision(vision.embed(pictures(), dtype), torch.zeros(1, 1, 0, vision.width))
    expected = copy.deepcopy(backbone.model).to(dtype).encode_image(pictures().to(dtype), normalize=True)
    torch.testing.assert_close(features[0], expected, rtol=0, atol=tolerance)


@DTYPES
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_with_tokens_it_is_the_stock_forward_with_them_put_in(
    mini: Backbone, layers: int, dtype: torch.dtype, tolerance: float
) -> None:
    vision = PromptedVision(mini, 1 << 30)
    prompt = tokens(3, layers, 5, 128)
    features = vision(vision.embed(pictures(), dtype), prompt)
    assert features.dtype == dtype
    for found, own in zip(features, prompt, strict=True):
        torch.testing.assert_close(found.double(), reference(mini, pictures(), own), rtol=0, atol=tolerance)
    assert (features[0] - features[1]).abs().max() > 1e-3


def test_watching_changes_nothing_and_sees_every_layer(mini: Backbone) -> None:
    vision, seen = PromptedVision(mini, 1 << 30), {}
    embedded, prompt = vision.embed(pictures(), torch.float64), tokens(1, 4, 2, 128)
    watched = vision(embedded, prompt, lambda layer, hidden: seen.setdefault(layer, hidden))
    torch.testing.assert_close(watched, vision(embedded, prompt), rtol=0, atol=1e-12)
    assert [hidden.shape for hidden in seen.values()] == [(5, 17 + 2, 128)] * 4


@pytest.mark.parametrize("memory_limit", [1, 1_000_000])
def test_features_do_not_depend_on_the_memory_limit(mini: Backbone, memory_limit: int) -> None:
    roomy, tight = (PromptedVision(mini, limit) for limit in (1 << 30, memory_limit))
    assert tight.chunk(22, torch.float32) < roomy.chunk(22, torch.float32)
    embedded, prompt = roomy.embed(pictures(7)), tokens(4, 1, 5, 128)
    torch.testing.assert_close(tight(embedded, prompt), roomy(embedded, prompt), rtol=0, atol=1e-6)


def test_a_resnet_is_refused() -> None:
    with pytest.raises(UserError, match=r"tiny-resnet.*ViT.*ModifiedResNet"):
        PromptedVision(make_resnet(), 1 << 30)


@DTYPES
@pytest.mark.parametrize("vit", [True, False])
def test_pictures_as_they_are_pass_any_tower(vit: bool, dtype: torch.dtype, tolerance: float, tiny_backbone: Backbone) -> None:
    backbone = tiny_backbone if vit else make_resnet()
    features = F.normalize(copy.deepcopy(backbone.model).to(dtype).encode_image(pictures().to(dtype)), dim=-1)
    found = image_tower(backbone, 2, 1 << 30)(pictures().to(dtype))
    torch.testing.assert_close(found, features, rtol=0, atol=tolerance)
