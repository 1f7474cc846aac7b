"""The tangent engine gives autograd's slopes for any names, context and tower, and computes only rows with tangents."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor

from clip.backbone import Backbone
from clip.tangents import Linearized, TangentEngine, Tangents
from clip.text import TextFeatures
from tests.conftest import make_tiny_backbone

NAMES = ["Boeing 737-300", "Boeing 737-400", "Boeing", "cat", "cat", "a small dog", "river of a rather long name", "x" * 40]
WORDS = st.sampled_from(["red", "blue", "Boeing", "737", "-", "small", "dog", "river", "été", "🙂", "of", "the", "a"])
INIT = "a photo of a"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case:
    """One context of a tower and some names, `m` directions, ∂L/∂features, and autograd's slopes in float64."""

    def __init__(
        self, backbone: Backbone, names: list[str], init: str = INIT, m: int = 5, own: bool = False, limit: int = 1 << 30
    ):
        self.text = TextFeatures(backbone, names, init, limit)
        shape = (*([len(names)] if own else []), len(backbone.tokenizer.encode(init)), self.text.engine.folded.positions.shape[1])
        self.context, self.directions = draw(*shape), draw(m, *shape, seed=1)
        context = self.context.clone().requires_grad_(True)
        self.features = self.text(context[None], torch.float64)[0]
        self.sensitivity = draw(*self.features.shape, seed=2)
        (self.features * self.sensitivity).sum().backward()
        self.expected = (self.directions * context.grad).flatten(1).sum(1)

    def at(self, dtype: torch.dtype, tangent_dtype: torch.dtype | None = None) -> Linearized:
        return TangentEngine(self.text.engine)(self.context, dtype, tangent_dtype or dtype)

    def error(self, dtype: torch.dtype, tangent_dtype: torch.dtype | None = None) -> float:
        """The relative error of the slopes, as one vector."""
        slopes = self.at(dtype, tangent_dtype).slopes(self.directions, self.sensitivity)
        assert slopes.dtype == torch.float64
        return float((slopes - self.expected).norm() / self.expected.norm())


@given(
    names=st.lists(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=12),
    init=st.sampled_from([INIT, "photo", "X X X X X X X X"]),
    m=st.integers(1, 6),
    own=st.booleans(),
    tower=st.sampled_from([{}, {"layers": 1}, {"heads": 4, "layers": 3}, {"context_length": 32, "heads": 1}]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_slopes_are_autograds_for_any_names_context_and_tower(names, init, m, own, tower) -> None:
    case = Case(make_tiny_backbone(**tower), names, init, m, own)
    assert case.error(torch.float64) < 1e-11
    assert case.error(torch.float32) < 1e-4
    torch.testing.assert_close(case.at(torch.float64).features, case.features.detach(), rtol=0, atol=1e-13)


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
def test_slopes_are_autograds_for_every_kind_of_block(
    tiny_backbone: Backbone, quick: bool, custom: bool, extra: dict[str, object]
) -> None:
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2} | extra
    vision = {"image_size": 32, "patch_size": 32, "layers": 1, "width": 32, "head_width": 16}
    model = reset((CustomTextCLIP if custom else CLIP)(32, vision, text, quick_gelu=quick))
    backbone = Backbone("made", model, tiny_backbone.tokenizer, tiny_backbone.preprocess, torch.device("cpu"))
    assert Case(backbone, NAMES).error(torch.float64) < 1e-11


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.bfloat16, 2.5e-2)])
@pytest.mark.parametrize("own", [True, False])
def test_error_stays_within_that_of_the_tangents_precision(
    tiny_backbone: Backbone, own: bool, dtype: torch.dtype, tolerance: float
) -> None:
    error = Case(tiny_backbone, NAMES, m=64, own=own).error(torch.float32, dtype)
    assert tolerance / 1000 < error < tolerance


def test_classes_of_one_name_share_a_leaf_and_both_count(tiny_backbone: Backbone) -> None:
    case = Case(tiny_backbone, ["cat", "cat", "dog"])
    at = case.at(torch.float64)
    first, second = torch.zeros(2, *case.sensitivity.shape, dtype=torch.float64)
    first[0], second[1] = case.sensitivity[0], case.sensitivity[0]
    once = at.slopes(case.directions, first)
    torch.testing.assert_close(at.slopes(case.directions, first + second), 2 * once)
    torch.testing.assert_close(at.slopes(case.directions, second), once)
    assert once.abs().min() > 0


@pytest.mark.parametrize("own", [True, False])
def test_memory_limit_changes_the_chunk_but_not_the_slopes(tiny_backbone: Backbone, own: bool) -> None:
    roomy, tight = (Case(tiny_backbone, NAMES, m=9, own=own, limit=limit) for limit in (1 << 30, 1 << 10))
    assert TangentEngine(tight.text.engine).chunk(torch.float64, own) == 1
    assert TangentEngine(roomy.text.engine).chunk(torch.float64, own) > 9
    slopes = [case.at(torch.float64).slopes(case.directions, case.sensitivity) for case in (roomy, tight)]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)


def test_chunk_follows_from_the_precision_and_the_memory_limit(tiny_backbone: Backbone) -> None:
    engines = [TangentEngine(TextFeatures(tiny_backbone, NAMES, INIT, limit).engine) for limit in (300_000, 600_000, 1 << 30)]
    chunks = [engine.chunk(torch.float32) for engine in engines]
    assert 1 <= chunks[0] < chunks[1] < chunks[2]
    assert engines[1].chunk(torch.bfloat16) > chunks[1]


def test_batches_of_any_size_in_any_order_give_the_same_slopes(tiny_backbone: Backbone) -> None:
    case = Case(tiny_backbone, NAMES, m=6)
    at = case.at(torch.float64)
    whole = at.slopes(case.directions, case.sensitivity)
    parts = [at.slopes(case.directions[i : i + n], case.sensitivity) for i, n in ((4, 2), (0, 1), (1, 3))]
    torch.testing.assert_close(torch.cat([parts[1], parts[2], parts[0]]), whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(at.slopes(case.directions, case.sensitivity), whole)
    assert at.slopes(case.directions[:0], case.sensitivity).shape == (0,)


def test_another_context_does_not_change_what_was_made_at_the_first(tiny_backbone: Backbone) -> None:
    case = Case(tiny_backbone, NAMES)
    engine = TangentEngine(case.text.engine)
    first = engine(case.context, torch.float64, torch.float64)
    before = first.slopes(case.directions, case.sensitivity)
    other = engine(2 * case.context, torch.float64, torch.float64).slopes(case.directions, case.sensitivity)
    assert torch.equal(first.slopes(case.directions, case.sensitivity), before)
    assert not torch.equal(other, before)


@pytest.mark.parametrize("layers", [1, 3])
def test_only_rows_that_move_are_multiplied(monkeypatch: pytest.MonkeyPatch, layers: int) -> None:
    case = Case(make_tiny_backbone(layers=layers), NAMES, m=5)
    rows: list[tuple[str, int]] = []
    product = Tangents._product

    def counting(self: Tangents, name: str, factor: Tensor, matrix: Tensor) -> Tensor:
        rows.append((name, len(factor) // 5))
        return product(self, name, factor, matrix)

    monkeypatch.setattr(Tangents, "_product", counting)
    case.at(torch.float64).slopes(case.directions, case.sensitivity)
    tree = case.text.engine.tree()
    contexts, all_rows, leaves = tree.n_ctx, len(tree), len(tree.leaf_rows)
    first = [("kv", contexts), ("q", contexts), ("hidden", all_rows)]
    between = [("kv", all_rows), ("q", all_rows), ("hidden", all_rows)]
    last = [("kv", all_rows), ("q", leaves), ("hidden", leaves)]
    assert rows == ([*first, *between, *last] if layers == 3 else [("kv", contexts), ("q", 0), ("hidden", leaves)])


def test_buffers_are_reused_between_batches(tiny_backbone: Backbone) -> None:
    case = Case(tiny_backbone, NAMES)
    engine = TangentEngine(case.text.engine)
    at = engine(case.context, torch.float32, torch.float32)
    at.slopes(case.directions, case.sensitivity)
    tangents = engine._tangents_of(torch.float32, False)
    before = {name: buffer.data_ptr() for name, buffer in tangents.buffers.items()}
    at.slopes(case.directions[:3], case.sensitivity)
    assert {name: buffer.data_ptr() for name, buffer in tangents.buffers.items()} == before


def test_no_graph_is_built_even_if_everything_requires_grad() -> None:
    backbone = make_tiny_backbone()
    case = Case(backbone, NAMES)
    backbone.model.requires_grad_(True)

    def refuse(tensor: Tensor) -> Tensor:
        raise AssertionError(f"a tensor of shape {tuple(tensor.shape)} was saved for a backward pass")

    case.context.requires_grad_(True)
    case.directions.requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(refuse, lambda tensor: tensor):
        slopes = case.at(torch.float32).slopes(case.directions, case.sensitivity)
    assert slopes.grad_fn is None
