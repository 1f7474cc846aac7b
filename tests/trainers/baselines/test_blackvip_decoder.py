"""BlackVIP's decoder: the published sizes, and the values of the same network built from torch's modules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.towers import ReferenceDecoder
from trainers.baselines.blackvip.decoder import BLOCKS, Decoder
from utils.errors import UserError


def reference(decoder: Decoder, w: Tensor, table: tuple = BLOCKS) -> ReferenceDecoder:
    network = ReferenceDecoder(decoder, table, decoder.trigger, decoder.start).double()
    network.load_state_dict({name: p[0] for name, p in decoder.parameters(w[None]).items()}, strict=False)
    return network.requires_grad_(False)


def points(decoder: Decoder, B: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    w = decoder.initial(generator)
    return w + 0.1 * torch.randn(B, decoder.d, generator=generator, dtype=torch.float64)


def features(n: int, width: int) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(2))


def test_sizes_at_224_pixels_are_the_published_ones() -> None:
    decoder = Decoder(224, z_dim=768)
    sizes = {name: math.prod(shape) for name, shape in decoder.shapes.items()}
    blocks = [sum(size for name, size in sizes.items() if name.startswith(f"blocks.{i}.")) for i in range(4)]
    assert sizes["trigger"] == 800
    assert blocks == [4544, 2432, 1248, 704]
    assert sizes["last.weight"] == 192
    assert decoder.d == 9920
    assert (decoder.start, 768 + decoder.trigger) == (7, 1568)
    prompts, _ = decoder(points(decoder, 1).float(), features(2, 768))
    assert prompts.shape == (1, 2, 3, 224, 224)


def test_a_small_image_takes_fewer_doublings() -> None:
    decoder = Decoder(32, z_dim=128)
    assert (decoder.start, decoder.blocks, decoder.trigger) == (4, BLOCKS[2:], 32 * 16 - 128)
    assert decoder.d == 384 + 1248 + 704 + 192
    prompts, _ = decoder(points(decoder, 3), features(5, 128))
    assert prompts.shape == (3, 5, 3, 32, 32)


@pytest.mark.parametrize(("side", "start", "blocks"), [(64, 4, 3), (288, 9, 4), (336, 21, 3), (448, 14, 4)])
def test_other_sizes_double_at_most_five_times(side: int, start: int, blocks: int) -> None:
    decoder = Decoder(side, z_dim=768)
    assert (decoder.start, len(decoder.blocks)) == (start, blocks)


def test_a_wide_feature_gets_64_channels_as_published_for_resnet_50() -> None:
    decoder = Decoder(224, z_dim=2048)
    assert decoder.blocks[0].channels == 64
    assert 2048 + decoder.trigger == 3136
    w = points(decoder, 1)
    expected = reference(decoder, w[0], ((64, 64, 32, 64), *BLOCKS[1:]))(features(2, 2048).double())
    torch.testing.assert_close(decoder(w, features(2, 2048))[0][0], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("side", [31, 6, 225])
def test_a_size_that_doubling_cannot_reach_is_refused(side: int) -> None:
    with pytest.raises(UserError, match="doubling"):
        Decoder(side, z_dim=768)


@pytest.mark.parametrize(("side", "width", "table"), [(224, 768, BLOCKS), (32, 24, BLOCKS[2:])])
def test_prompts_and_statistics_are_those_of_torchs_modules(side: int, width: int, table: tuple) -> None:
    decoder = Decoder(side, z_dim=width)
    W, z = points(decoder, 2), features(3, width)
    prompts, statistics = decoder(W, z)
    other = features(6, width)[3:]
    fixed, _ = decoder(W, other, statistics)
    for b, w in enumerate(W):
        network = reference(decoder, w, table).train()
        for block in network.blocks:
            block.norm.momentum = 1.0
        torch.testing.assert_close(prompts[b], network(z.double()), rtol=0, atol=1e-10)
        for block, (mean, variance) in zip(network.blocks, statistics, strict=True):
            torch.testing.assert_close(mean[b], block.norm.running_mean, rtol=0, atol=1e-10)
            # torch keeps the unbiased variance
            block.norm.running_var.copy_(variance[b])
        torch.testing.assert_close(fixed[b], network.eval()(other.double()), rtol=0, atol=1e-10)
    assert (prompts[0] - prompts[1]).abs().max() > 1e-3


def test_first_values_are_within_the_ranges_of_the_sheet() -> None:
    decoder = Decoder(224, z_dim=768)
    w = decoder.initial(torch.Generator().manual_seed(0))
    own = {name: p[0] for name, p in decoder.parameters(w[None]).items()}
    assert 0 <= own["trigger"].min() < 0.01
    assert 0.09 < own["trigger"].max() <= 0.1
    assert torch.equal(own["blocks.1.norm.weight"], torch.ones(32, dtype=torch.float64))
    assert torch.equal(own["blocks.1.norm.bias"], torch.zeros(32, dtype=torch.float64))
    network = ReferenceDecoder(decoder, BLOCKS, 800, 7)
    for name, module in network.named_modules():
        if isinstance(module, nn.ConvTranspose2d):
            drawn, torchs = own[f"{name}.weight"], module.weight.detach()
            assert drawn.abs().max() == pytest.approx(torchs.abs().max().item(), rel=0.1)
