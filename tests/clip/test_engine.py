"""The scoring engine gives the reference path's features, for any names, context and tower."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor

from clip.backbone import Backbone
from clip.folded import Foldable, Unsupported
from clip.text import TextFeatures
from clip.tree import build_tree
from tests.conftest import make_tiny_backbone

NAMES = ["Boeing 737-300", "Boeing 737-400", "Boeing", "cat", "cat", "a small dog", "river of a rather long name", "x" * 40]
WORDS = st.sampled_from(["red", "blue", "Boeing", "737", "-", "small", "dog", "river", "été", "🙂", "of", "the", "a"])


def contexts_for(backbone: Backbone, ctx_init: str, B: int, classes: int | None = None, seed: int = 0) -> Tensor:
    n_ctx, width = len(backbone.tokenizer.encode(ctx_init)), backbone.model.token_embedding.weight.shape[1]
    shape = (B, n_ctx, width) if classes is None else (B, classes, n_ctx, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def both(backbone: Backbone, names: list[str], ctx_init: str, contexts: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        fast = TextFeatures(backbone, names, ctx_init, 1 << 30, "fast")(contexts, dtype)
        return fast, TextFeatures(backbone, names, ctx_init, 1 << 30, "stock")(contexts, dtype)


def relative(fast: Tensor, exact: Tensor) -> float:
    return float(((fast - exact).norm(dim=-1) / exact.norm(dim=-1)).max())


@given(
    names=st.lists(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=12),
    ctx_init=st.sampled_from(["a photo of a", "photo", "X X X X X X X X"]),
    B=st.integers(1, 5),
    class_specific=st.booleans(),
    tower=st.sampled_from([{}, {"layers": 1}, {"heads": 4, "layers": 3}, {"context_length": 32, "heads": 1}]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_equals_the_reference_path_for_any_names_context_and_tower(names, ctx_init, B, class_specific, tower) -> None:
    backbone = make_tiny_backbone(**tower)
    contexts = contexts_for(backbone, ctx_init, B, len(names) if class_specific else None)
    assert relative(*both(backbone, names, ctx_init, contexts, torch.float64)) < 1e-12
    fast, _ = both(backbone, names, ctx_init, contexts, torch.float32)
    _, exact = both(backbone, names, ctx_init, contexts, torch.float64)
    assert relative(fast.double(), exact) < 2e-6


def reset(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter away from its tidy initial value, gains and biases too."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("custom", [True, False])
@pytest.mark.parametrize(
    "extra", [{}, {"ls_init_value": 0.5}, {"proj_type": "linear"}, {"proj_bias": True, "proj_type": "linear"}]
)
def test_equals_the_reference_path_for_every_kind_of_block(tiny_backbone, quick: bool, custom: bool, extra: dict) -> None:
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2} | extra
    vision = {"image_size": 32, "patch_size": 32, "layers": 1, "width": 32, "head_width": 16}
    model = reset((CustomTextCLIP if custom else CLIP)(32, vision, text, quick_gelu=quick))
    backbone = Backbone("made", model, tiny_backbone.tokenizer, tiny_backbone.preprocess, torch.device("cpu"))
    contexts = contexts_for(tiny_backbone, "a photo of a", 3)
    features = TextFeatures(backbone, NAMES, "a photo of a", 1 << 30, "fast")
    # "cat" is there twice, and nothing else is to be warned of: no fallback to the stock path
    assert len(features.warnings) == 1 and "a photo of a cat" in features.warnings[0]
    assert relative(*both(backbone, NAMES, "a photo of a", contexts, torch.float64)) < 1e-12


def test_memory_limit_changes_the_chunk_but_not_the_features(tiny_backbone) -> None:
    contexts = contexts_for(tiny_backbone, "a photo of a", 9)
    small = TextFeatures(tiny_backbone, NAMES, "a photo of a", 1 << 10)
    large = TextFeatures(tiny_backbone, NAMES, "a photo of a", 1 << 30)
    assert small.chunk(torch.float32) == 1 < 9 < large.chunk(torch.float32)
    with torch.inference_mode():
        assert relative(small(contexts), large(contexts)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(tiny_backbone, dtype: torch.dtype) -> None:
    contexts = contexts_for(tiny_backbone, "a photo of a", 2)
    fast, _ = both(tiny_backbone, NAMES, "a photo of a", contexts, dtype)
    _, exact = both(tiny_backbone, NAMES, "a photo of a", contexts, torch.float64)
    assert fast.dtype == dtype
    assert relative(fast.double(), exact) < 0.1


def test_tower_without_causal_attention_falls_back_saying_so(tiny_backbone) -> None:
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "no_causal_mask": True}
    vision = {"image_size": 32, "patch_size": 32, "layers": 1, "width": 32, "head_width": 16}
    model = reset(CustomTextCLIP(32, vision, text))
    with pytest.raises(Unsupported, match="causal"):
        Foldable(model.text, 49406)
    backbone = Backbone("made", model, tiny_backbone.tokenizer, tiny_backbone.preprocess, torch.device("cpu"))
    features = TextFeatures(backbone, NAMES, "a photo of a", 1 << 30, "fast")
    assert any("engine" in warning for warning in features.warnings)
    contexts = contexts_for(tiny_backbone, "a photo of a", 2)
    with torch.inference_mode():
        stock = TextFeatures(backbone, NAMES, "a photo of a", 1 << 30, "stock")(contexts)
        assert torch.equal(features(contexts), stock)


def test_each_distinct_prompt_beginning_is_one_row() -> None:
    tree = build_tree([[5, 6, 9], [5, 7, 9], [5, 6, 9], [8, 9]], n_ctx=4, class_specific=False)
    assert len(tree) == 4 + 7
    assert len(tree.leaf_rows) == 3
    assert tree.leaf_of_class[0] == tree.leaf_of_class[2]
    own = build_tree([[5, 6, 9], [5, 7, 9], [5, 6, 9], [8, 9]], n_ctx=4, class_specific=True)
    assert len(own) == 4 * 4 + 11


@pytest.mark.parametrize("group_size", [1, 3, 64])
def test_every_row_attends_only_to_its_own_past(group_size: int) -> None:
    tree = build_tree([[5, 6, 9], [5, 7, 9], [8, 9]], n_ctx=2, class_specific=False, group_size=group_size)
    plan = tree.rows
    assert (plan.mask.shape[2] <= group_size) and plan.groups * plan.mask.shape[2] == len(plan.queries)
    keys, seen = plan.keys.view(plan.groups, -1), {}
    for row, slot in enumerate(plan.slots.tolist()):
        group, place = divmod(slot, plan.mask.shape[2])
        assert plan.queries[slot] == row
        allowed = plan.mask[group, 0, place] == 0
        assert allowed[0]
        seen[row] = set(keys[group][1:][allowed[1:]].tolist())
    context = {len(tree) - 2, len(tree) - 1}
    assert seen[len(tree) - 2] == {len(tree) - 2}
    for i, token in enumerate(tree.tokens.tolist()):
        assert context <= seen[i]
        past = {int(tree.tokens[key]) for key in seen[i] - context}
        assert token in past and past <= {5, 6, 7, 8, 9}
        assert len(past) == int(tree.positions[i]) - 2
    assert plan.links == sum(1 + len(past) for past in seen.values())


def test_gradient_through_the_engine_is_that_of_the_reference_path(tiny_backbone) -> None:
    contexts = contexts_for(tiny_backbone, "a photo of a", 3)
    gradients = []
    for engine in ("fast", "stock"):
        features = TextFeatures(tiny_backbone, NAMES, "a photo of a", 1 << 30, engine)
        with torch.inference_mode():
            features(contexts, torch.float64)
        x = contexts.clone().requires_grad_(True)
        weights = torch.linspace(-1, 1, 24, dtype=torch.float64)
        (features(x, torch.float64) * weights).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
