"""Mini and Mini-RN, the bundled models."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from safetensors.torch import load_file

from clip import MINIS
from clip.backbone import Backbone, load_backbone
from clip.bundled import weights_of
from clip.text import TextFeatures
from datasets.digits import NAMES as DIGITS
from tests.helpers.data import refusal
from tests.helpers.weights import assert_frozen

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")


@pytest.fixture(scope="module", params=MINIS)
def mini(request: pytest.FixtureRequest) -> Backbone:
    return load_backbone(request.param, CPU)


def test_mini_loads_frozen_with_32_positions_from_at_most_4_mib(mini: Backbone) -> None:
    assert_frozen(mini)
    assert weights_of(mini.name).stat().st_size <= 4 << 20
    assert mini.model.positional_embedding.shape == (32, 128)
    assert mini.tokenizer(["a"]).shape == (1, 32)
    images = mini.encode_images(torch.zeros(2, 3, 32, 32))
    torch.testing.assert_close(images.norm(dim=1), torch.ones(2))


def test_mini_keeps_the_seeded_row_of_every_untrained_token(mini: Backbone) -> None:
    table = torch.randn(49408, 128, generator=torch.Generator().manual_seed(0)) * 0.02
    weights = load_file(weights_of(mini.name))
    table[weights["token_ids"].long()] = weights["token_rows"].float()
    assert mini.known_tokens == set(weights["token_ids"].tolist())
    assert 0 < len(mini.known_tokens) < 49408
    assert torch.equal(mini.model.token_embedding.weight, table)


def test_mini_warns_once_about_an_unknown_word_and_still_runs(mini: Backbone) -> None:
    words = (token.removesuffix("</w>") for token in mini.tokenizer.encoder if token.endswith("</w>"))
    strange = (w for w in words if w.isalpha() and not mini.known_tokens.issuperset(mini.tokenizer.encode(w)))
    unknown = list(islice(strange, 2))
    text = TextFeatures(mini, [*DIGITS, *unknown], "a photo of a", 1 << 30)
    assert len(text.warnings) == 1
    assert all(word in text.warnings[0] for word in unknown)
    assert text(torch.zeros(1, 4, 128)).isfinite().all()


def test_mini_knows_the_words_of_its_own_data(mini: Backbone) -> None:
    assert TextFeatures(mini, DIGITS, "a photo of a", 1 << 30).warnings == []


def test_weights_of_one_mini_are_refused_for_the_other() -> None:
    path = str(weights_of("Mini-RN"))
    assert f"--checkpoint: {path}: not the weights of Mini" in refusal(lambda: load_backbone("Mini", CPU, path))


def test_loading_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    load_backbone("Mini", CPU)
    assert torch.equal(torch.get_rng_state(), before)
