"""BlackVIP's frozen encoder: z for each kind of name, and one clear line if it cannot be loaded."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from clip.backbone import Backbone
from trainers.baselines.blackvip.encoder import load_encoder
from utils.errors import UserError

TINY = "vit_tiny_patch16_224@random"


def images(n: int = 2, side: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_z_is_the_class_token_before_the_last_norm(tiny_backbone: Backbone) -> None:
    encoder = load_encoder(TINY, tiny_backbone, seed=1)
    z = encoder(images(side=224))
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    hidden: list[torch.Tensor] = []
    model.norm.register_forward_pre_hook(lambda module, args: hidden.append(args[0]))
    loaded = encoder.encode.__closure__
    own = next(cell.cell_contents for cell in loaded if isinstance(cell.cell_contents, torch.nn.Module))
    missing = model.load_state_dict(own.state_dict(), strict=False)
    assert missing.missing_keys == ["norm.weight", "norm.bias"]
    with torch.no_grad():
        model(images(side=224))
    assert (encoder.dim, z.shape) == (192, (2, 192))
    torch.testing.assert_close(z, hidden[0][:, 0], rtol=0, atol=1e-5)


def test_random_weights_follow_from_the_seed_alone_and_leave_the_global_generator(tiny_backbone: Backbone) -> None:
    before = torch.get_rng_state()
    first, again, other = (load_encoder(TINY, tiny_backbone, seed)(images()) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_network_without_class_token_gives_its_pooled_feature(tiny_backbone: Backbone) -> None:
    encoder = load_encoder("resnet10t@random", tiny_backbone, seed=1)
    assert encoder(images()).shape == (2, encoder.dim) == (2, 512)


def test_clip_is_its_own_encoder(tiny_backbone: Backbone) -> None:
    encoder = load_encoder("clip", tiny_backbone, seed=1)
    assert encoder.dim == 24
    assert torch.equal(encoder(images()), tiny_backbone.model.encode_image(images()))


def test_an_unknown_name_is_refused_with_similar_names(tiny_backbone: Backbone) -> None:
    with pytest.raises(UserError, match=r"--pt_backbone.*'vit_bas_patch16_224'.*vit_base_patch16_224"):
        load_encoder("vit_bas_patch16_224", tiny_backbone, seed=1)


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("Invalid pretrained tag (zzz)")])
def test_weights_that_cannot_be_loaded_are_refused_in_one_line(
    error: Exception, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        assert options["pretrained"]
        raise error

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError, match=r"--pt_backbone.*vit_base_patch16_224\.mae.*vit_base_patch16_224@random") as refused:
        load_encoder("vit_base_patch16_224.mae", tiny_backbone, seed=1)
    assert "\n" not in str(refused.value)
