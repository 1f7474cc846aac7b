"""The prompt: its features are open_clip's own, its contexts are p0 + A·w, and its file keeps it exactly."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from open_clip.model import CustomTextCLIP, convert_to_custom_text_state_dict
from safetensors.torch import save_file
from torch import Tensor

from clip import text as clip_text
from clip.backbone import Backbone, load_backbone
from clip.prompt import Projection, context_embeddings, load_prompt, make_projection, save_prompt
from clip.text import TextFeatures, zero_shot_features
from tests.conftest import CLASSNAMES, make_tiny_backbone
from utils.errors import UserError

INIT = "a photo of a"
ROOM = 1 << 30
engines = pytest.mark.parametrize("engine", ["fast", "stock"])


def make_custom(tiny: Backbone, **text: object) -> Backbone:
    """The tiny CLIP with a separate text tower, as in open_clip's CustomTextCLIP."""
    vision_cfg = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16}
    text_cfg = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2} | text
    model = CustomTextCLIP(24, vision_cfg, text_cfg, quick_gelu=True)
    wanted = model.state_dict()
    state = convert_to_custom_text_state_dict(tiny.model.state_dict())
    model.load_state_dict({name: state.get(name, own) for name, own in wanted.items()})
    return dataclasses.replace(tiny, name="custom", model=model.eval().requires_grad_(False))


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "tiny": make_tiny_backbone,
    "Mini": lambda: load_backbone("Mini", torch.device("cpu")),
    "custom": lambda: make_custom(make_tiny_backbone()),
    # pooled at the full stop, and so apart from argmax
    "custom eos": lambda: make_custom(make_tiny_backbone(), pool_type="eos", eos_id=269),
    "custom last": lambda: make_custom(make_tiny_backbone(), pool_type="last"),
    "custom linear": lambda: make_custom(make_tiny_backbone(), proj_bias=True),
    "custom no projection": lambda: make_custom(make_tiny_backbone(), proj_type="none"),
    "custom no mask": lambda: make_custom(make_tiny_backbone(), no_causal_mask=True),
}


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return BACKBONES[request.param]()


@pytest.fixture(scope="module", params=["tiny", "Mini"])
def plain(request: pytest.FixtureRequest) -> Backbone:
    return BACKBONES[request.param]()


def projection_of(backbone: Backbone, ctx_init: str = INIT, d: int = 6, std: float = 0.3, seed: int = 0) -> Projection:
    return make_projection(context_embeddings(backbone, ctx_init), d, std, torch.Generator().manual_seed(seed))


def random_contexts(backbone: Backbone, B: int) -> Tensor:
    return projection_of(backbone).contexts(torch.randn(B, 6, generator=torch.Generator().manual_seed(1)))


def open_clip_features(backbone: Backbone, prompts: list[str], dtype: torch.dtype = torch.float32) -> Tensor:
    model = copy.deepcopy(backbone.model).to(dtype)
    with torch.no_grad():
        return model.encode_text(backbone.tokenizer(prompts), normalize=True)


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


# features


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("ctx_init", [INIT, "a_photo_of_a", "X X X X X X X X", "photo"])
@engines
def test_initial_contexts_give_open_clips_own_features(
    backbone: Backbone, engine: str, ctx_init: str, dtype: torch.dtype, tolerance: float
) -> None:
    contexts = projection_of(backbone, ctx_init).p0[None]
    ours = TextFeatures(backbone, CLASSNAMES, ctx_init, ROOM, engine)(contexts, dtype)
    prompts = [f"{ctx_init} {name}.".replace("_", " ") for name in CLASSNAMES]
    assert ours.dtype == dtype
    assert_close(ours[0], open_clip_features(backbone, prompts, dtype), tolerance)


@engines
def test_context_takes_the_places_of_the_words_it_starts_from(backbone: Backbone, engine: str) -> None:
    other = "the small river dog"
    contexts = projection_of(backbone, other).p0[None]
    ours = TextFeatures(backbone, CLASSNAMES, INIT, ROOM, engine)(contexts)[0]
    theirs = open_clip_features(backbone, [f"{other} {name}.".replace("_", " ") for name in CLASSNAMES])
    assert_close(ours, theirs, 1e-6)


@pytest.mark.parametrize("at_once", [2, 256])
def test_whole_prompts_give_open_clips_own_features(backbone: Backbone, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_text, "ZERO_SHOT_PROMPTS_PER_PASS", at_once)
    prompts = ["a centered satellite photo of forest.", "river", "a red dog."]
    assert_close(zero_shot_features(backbone, prompts)[0], open_clip_features(backbone, prompts), 1e-6)


@engines
def test_a_separate_text_tower_gives_the_same_features(tiny_backbone: Backbone, engine: str) -> None:
    contexts = random_contexts(tiny_backbone, 2)
    features = [TextFeatures(b, CLASSNAMES, INIT, ROOM, engine)(contexts) for b in (tiny_backbone, make_custom(tiny_backbone))]
    assert_close(features[0], features[1], 1e-6)


@engines
def test_an_underscore_in_a_name_is_a_space(plain: Backbone, engine: str) -> None:
    contexts, names = random_contexts(plain, 1), ("red_dog", "red dog")
    with_underscore, with_space = (TextFeatures(plain, [name], INIT, ROOM, engine)(contexts) for name in names)
    assert torch.equal(with_underscore, with_space)


@engines
def test_changing_the_context_of_one_row_changes_only_that_row(plain: Backbone, engine: str) -> None:
    text = TextFeatures(plain, CLASSNAMES, INIT, ROOM, engine)
    contexts = random_contexts(plain, 3)
    before = text(contexts)
    contexts[1] = -contexts[1]
    change = (text(contexts) - before).abs().amax(dim=(1, 2))
    assert change[0] <= 1e-6
    assert change[1] >= 1e-3
    assert change[2] <= 1e-6


@engines
def test_every_row_and_class_has_the_features_it_has_alone(plain: Backbone, engine: str) -> None:
    contexts = random_contexts(plain, 3)
    together = TextFeatures(plain, CLASSNAMES, INIT, ROOM, engine)(contexts)
    assert together.shape[:2] == (3, len(CLASSNAMES))
    for b, context in enumerate(contexts):
        for k, name in enumerate(CLASSNAMES):
            assert_close(together[b, k], TextFeatures(plain, [name], INIT, ROOM, engine)(context[None])[0, 0], 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@engines
def test_features_do_not_depend_on_the_memory_limit(plain: Backbone, engine: str, dtype: torch.dtype) -> None:
    contexts = random_contexts(plain, 7)
    roomy = TextFeatures(plain, CLASSNAMES, INIT, ROOM, engine)
    expected, chunks = roomy(contexts, dtype), set()
    for limit in [1, *(100_000 << i for i in range(6))]:
        tight = TextFeatures(plain, CLASSNAMES, INIT, limit, engine)
        chunks.add(tight.chunk(dtype))
        assert_close(tight(contexts, dtype), expected, 1e-6)
    assert min(chunks) == 1
    assert len(chunks) >= 3
    assert max(chunks) <= roomy.chunk(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_pass_of_the_stock_tower_holds_more_prompts_than_the_memory_limit_allows(dtype: torch.dtype) -> None:
    tiny = make_tiny_backbone()
    sizes: list[int] = []
    tiny.model.ln_final.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    TextFeatures(tiny, CLASSNAMES, INIT, 1, "stock")(random_contexts(tiny, 2), dtype)
    assert sizes == [1] * 8
    sizes.clear()
    TextFeatures(tiny, CLASSNAMES, INIT, ROOM, "stock")(random_contexts(tiny, 2), dtype)
    assert sizes == [8]


@engines
def test_a_name_longer_than_the_tower_gives_a_warning_naming_it_and_runs(plain: Backbone, engine: str) -> None:
    long = " ".join(["river"] * 80)
    text = TextFeatures(plain, ["river", long], INIT, ROOM, engine)
    limit = plain.tokenizer.context_length
    [warning] = [line for line in text.warnings if "truncated" in line]
    assert long in warning
    assert warning.startswith(f"1 prompts exceed {limit} tokens")
    assert_close(text(projection_of(plain).p0[None])[0], open_clip_features(plain, [f"{INIT} river.", f"{INIT} {long}."]), 1e-6)


def test_a_name_that_just_fits_gives_no_warning(tiny_backbone: Backbone) -> None:
    # SOS, four context tokens, the full stop and EOS take seven of the 77 places
    assert TextFeatures(tiny_backbone, [" ".join(["river"] * 70)], INIT, ROOM).warnings == []
    assert len(TextFeatures(tiny_backbone, [" ".join(["river"] * 71)], INIT, ROOM).warnings) == 1


@pytest.mark.parametrize(
    "name", ["😀", "كلب أحمر", "שלום", "日本語", "", " ", "_", ".", "&amp;", "\t\n", "e\u0301", "#1 'dog's", "<end_of_text>"]
)
@engines
def test_unusual_names_run_and_equal_open_clips_features(plain: Backbone, engine: str, name: str) -> None:
    ours = TextFeatures(plain, [name, "river"], INIT, ROOM, engine)(projection_of(plain).p0[None])
    prompts = [f"{INIT} {text.replace('_', ' ')}." for text in (name, "river")]
    assert_close(ours[0], open_clip_features(plain, prompts), 1e-6)


# contexts


def test_contexts_are_p0_plus_the_reshaped_product(plain: Backbone) -> None:
    projection = projection_of(plain)
    W = torch.randn(3, projection.d, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    contexts = projection.contexts(W)
    n_ctx, width = projection.p0.shape
    expected = projection.p0.repeat(3, 1, 1)
    for b in range(3):
        for token in range(n_ctx):
            for channel in range(width):
                row = projection.A[token * width + channel]
                expected[b, token, channel] += sum(float(a) * float(x) for a, x in zip(row, W[b], strict=True))
    assert contexts.dtype == torch.float64
    assert_close(contexts, expected, 1e-12)


@pytest.mark.parametrize(("ctx_init", "n_ctx"), [(INIT, 4), ("a_photo_of_a", 4), ("X X X X X X X X", 8), ("photo", 1)])
def test_p0_is_the_embedding_of_the_initial_words(plain: Backbone, ctx_init: str, n_ctx: int) -> None:
    tokens = plain.tokenizer([ctx_init.replace("_", " ")])[0, 1 : 1 + n_ctx]
    p0 = projection_of(plain, ctx_init).p0
    assert torch.equal(p0, plain.model.token_embedding.weight[tokens].double())


@pytest.mark.parametrize("std", [0.02, 1.0])
def test_the_entries_of_a_have_the_given_std(tiny_backbone: Backbone, std: float) -> None:
    A = projection_of(tiny_backbone, d=400, std=std).A
    assert A.shape == (4 * 32, 400)
    assert A.dtype == torch.float64
    # five standard deviations of the sample's std and mean
    assert abs(A.std().item() / std - 1) < 5 / math.sqrt(2 * A.numel())
    assert abs(A.mean().item() / std) < 5 / math.sqrt(A.numel())


def test_a_and_p0_depend_on_nothing_but_the_generator(plain: Backbone) -> None:
    first = projection_of(plain, seed=3)
    torch.rand(5)
    again, other = projection_of(plain, seed=3), projection_of(plain, seed=4)
    assert torch.equal(first.A, again.A)
    assert torch.equal(first.p0, again.p0)
    assert not torch.equal(first.A, other.A)
    assert torch.equal(first.p0, other.p0)


def test_initial_words_that_leave_no_room_for_a_name_are_refused(plain: Backbone) -> None:
    most = plain.tokenizer.context_length - 3
    assert len(projection_of(plain, " ".join(["X"] * most)).p0) == most
    with pytest.raises(UserError, match="--ctx_init"):
        projection_of(plain, " ".join(["X"] * (most + 1)))


# files


def test_a_saved_prompt_loads_exactly(plain: Backbone, tmp_path: Path) -> None:
    projection = projection_of(plain)
    w = torch.randn(projection.d, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    metadata = {"dataset": "digits", "seed": 1, "classnames": ["zero", "naïve 😀"]}
    expected = {"w": w, "A": projection.A, "p0": projection.p0, "context": projection.contexts(w[None])[0]}
    save_prompt(tmp_path / "prompt.safetensors", expected, metadata)
    tensors, loaded = load_prompt(tmp_path / "prompt.safetensors")
    assert loaded == metadata
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == torch.float64
        assert torch.equal(tensors[name], tensor), name


@pytest.mark.parametrize("content", ["garbage", "empty", "truncated", "pickle", "no metadata", "foreign metadata", "no tensors"])
def test_a_file_that_is_not_a_saved_prompt_is_refused_by_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    save_prompt(path, {"w": torch.zeros(8, dtype=torch.float64)}, {"seed": 1})
    load_prompt(path)
    if content == "garbage":
        path.write_bytes(b"\x93\x00not a prompt\n" * 20)
    elif content == "empty":
        path.write_bytes(b"")
    elif content == "truncated":
        path.write_bytes(path.read_bytes()[:-8])
    elif content == "pickle":
        path.write_bytes(pickle.dumps({"w": [0.0]}))
    else:
        header = {"no metadata": None, "foreign metadata": {"format": "pt"}, "no tensors": {"sharpzo": "{}"}}[content]
        save_file({"weight": torch.ones(2)}, path, metadata=header)
    with pytest.raises(UserError) as error:
        load_prompt(path)
    assert str(path) in str(error.value)


def test_an_absent_prompt_is_refused_naming_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.safetensors"):
        load_prompt(tmp_path / "absent.safetensors")
