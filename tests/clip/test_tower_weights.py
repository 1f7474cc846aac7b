"""A text tower in bfloat16 or int8: stored values, the same values in all paths, and memory."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clip.backbone import Backbone
from clip.deep_text import DeepText
from clip.packed import matrices, pack, quantize, rounded
from clip.text import TextFeatures
from datasets import DATASETS
from main_sharpzo import main
from tests.conftest import make_tiny_backbone
from trainers import TRAINERS, jobs
from utils.config import load_config
from utils.run import read_result

NAMES = ["cat", "small dog", "river of a rather long name", "red square"]
WORDS = "a photo of a"
KINDS = ("bfloat16", "int8")


def packed_backbone(kind: str) -> Backbone:
    return make_tiny_backbone().with_tower_weights(kind)


def contexts(count: int, width: int = 32) -> Tensor:
    return 0.3 * torch.randn(count, 4, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def matrix(rows: int = 40, columns: int = 30) -> Tensor:
    found = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    found[3] = 0
    found[5] *= 1e-6
    return found


def test_int8_has_one_symmetric_scale_per_output_channel_and_half_a_step_of_error() -> None:
    W = matrix()
    q, scale = quantize(W)
    assert q.dtype == torch.int8 and scale.shape == (40, 1) and int(q.abs().max()) == 127
    assert ((q * scale - W).abs() <= scale * 0.5001).all()
    # each channel uses the whole range, however small its values are
    assert (q.abs().amax(1)[[0, 5]] == 127).all() and (q[3] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rounded_values_are_packed_without_loss(kind: str) -> None:
    W = rounded(matrix(), kind)
    assert torch.equal(rounded(W, kind), W) and not torch.equal(W, matrix())
    found = pack(W, kind, rows=torch.ones(30, dtype=torch.float64), columns=torch.ones(40, dtype=torch.float64))
    assert found.stored.dtype == {"int8": torch.int8, "bfloat16": torch.bfloat16}[kind]
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(found.to(dtype, torch.device("cpu")).dense, W.T.to(dtype))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_engine_and_stock_tower_compute_with_the_same_values(kind: str, dtype: torch.dtype) -> None:
    backbone = packed_backbone(kind)
    fast, stock = (TextFeatures(backbone, NAMES, WORDS, 1 << 30, engine) for engine in ("fast", "stock"))
    assert fast.engine is not None and fast.engine.folded.packed
    with torch.inference_mode():
        found, exact = fast(contexts(3), dtype), stock(contexts(3), torch.float64)
        other = TextFeatures(make_tiny_backbone(), NAMES, WORDS, 1 << 30, "stock")(contexts(3), torch.float64)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert (found - exact).norm() < tolerance * exact.norm() < 0.1 * (other - exact).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_tangents_of_a_packed_tower_are_its_slopes(kind: str) -> None:
    text = TextFeatures(packed_backbone(kind), NAMES, WORDS, 1 << 30)
    at, directions = contexts(1)[0], contexts(6)[1:]
    sensitivity = torch.randn(len(NAMES), 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    near = text.linearized(at, torch.float64, torch.float64)
    assert near is not None
    step = 1e-6
    with torch.inference_mode():
        ahead, behind = (text(at + sign * step * directions, torch.float64) for sign in (1, -1))
    slopes = ((ahead - behind) / (2 * step) * sensitivity).sum((1, 2))
    assert torch.allclose(near.slopes(directions, sensitivity), slopes, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_tower_has_gradients(kind: str) -> None:
    text = TextFeatures(packed_backbone(kind), NAMES, WORDS, 1 << 30)
    with torch.inference_mode():
        text(contexts(1))
    at = contexts(1).requires_grad_(True)
    with torch.enable_grad():
        text(at, torch.float64)[0, 0, 0].backward()
    assert at.grad is not None and at.grad.abs().sum() > 0


def test_paths_without_packing_say_so_and_a_float32_tower_says_nothing() -> None:
    said = "--tower_weights int8: the stock tower stores these values as float32 and saves no memory"
    for text in (
        TextFeatures(packed_backbone("int8"), NAMES, WORDS, 1 << 30, "stock"),
        TextFeatures(packed_backbone("int8"), NAMES, WORDS, 1 << 30, position="front"),
        DeepText(packed_backbone("int8"), NAMES, WORDS, 1 << 30),
    ):
        assert text.warnings.count(said) == 1
    assert not TextFeatures(packed_backbone("int8"), NAMES, WORDS, 1 << 30).warnings
    assert not TextFeatures(make_tiny_backbone(), NAMES, WORDS, 1 << 30, "stock").warnings


def test_fingerprint_is_that_of_the_weights_as_they_were_loaded() -> None:
    backbone = make_tiny_backbone()
    before = backbone.fingerprint()
    weights = [found.clone() for found in matrices(backbone.model.transformer)]
    changed = backbone.with_tower_weights("int8")
    assert changed.fingerprint() == changed.released().fingerprint() == before
    assert all(not torch.equal(old, new) for old, new in zip(weights, matrices(changed.model.transformer), strict=True))
    # the original is unchanged
    assert all(torch.equal(old, new) for old, new in zip(weights, matrices(backbone.model.transformer), strict=True))
    same = make_tiny_backbone().with_tower_weights("float32")
    assert all(torch.equal(old, new) for old, new in zip(weights, matrices(same.model.transformer), strict=True))


@pytest.mark.parametrize("kind", ["float32", *KINDS])
def test_engine_keeps_neither_image_tower_nor_embedding_table(kind: str) -> None:
    backbone = make_tiny_backbone().with_tower_weights(kind)
    parts = (backbone.model.visual, backbone.model.token_embedding, backbone.model.transformer.resblocks[0].mlp.c_fc)
    image, table, matrix = (weakref.ref(part) for part in parts)
    del parts
    text = TextFeatures(backbone, NAMES, WORDS, 1 << 30)
    backbone = backbone.released()
    gc.collect()
    assert image() is None and table() is None
    # a float32 tower is folded again for each precision
    assert (matrix() is None) == (kind != "float32")
    assert text(contexts(1)).shape == (1, 4, 24) and backbone.logit_scale > 0


@pytest.mark.parametrize("trainer", ["sharpzo", "bbt", "zip", "mezo", "coop", "craft", "bpt-vlm", "blackvip"])
def test_run_retains_the_image_tower_only_if_its_steps_encode_images(trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    towers = []
    load = jobs.load_task

    def watched(*arguments: Any) -> Any:
        task = load(*arguments)
        towers.append(weakref.ref(task.backbone.model.visual))
        return task

    monkeypatch.setattr(jobs, "load_task", watched)
    flags = ["--config", "configs/digits.yaml", "--prompt_trainer", trainer, "--shots", "1", "--intrinsic_dim", "8"]
    job = jobs.make_job(load_config(flags, TRAINERS, DATASETS), torch.device("cpu"))
    job.prepare(lambda setting: None)
    gc.collect()
    assert (towers[0]() is not None) == (trainer in ("bpt-vlm", "blackvip"))


def test_prompt_tuned_on_an_int8_tower_is_scored_on_either(one_mini: None, tmp_path: Path) -> None:
    flags = ["--total_steps", "4", "--change_point", "2", "--shots", "1", "--intrinsic_dim", "8", "--popsize", "4"]
    flags += ["--dataset", "digits", "--backbone", "Mini", "--output_dir", str(tmp_path)]
    assert main([*flags, "--tower_weights", "int8"]) == 0
    # another tower is another run
    assert main(flags) == 2
    (prompt,) = tmp_path.rglob("prompt.safetensors")
    tuned = read_result(prompt.parent)
    accuracy = {}
    for kind in ("int8", "float32"):
        scored = ["--load_prompt", str(prompt), "--tower_weights", kind, "--output_dir", str(tmp_path / kind)]
        assert main([*flags[-6:-2], *scored]) == 0
        (folder,) = (path.parent for path in (tmp_path / kind).rglob("result.json"))
        accuracy[kind] = read_result(folder)["test_accuracy"]
    assert tuned and accuracy["int8"] == tuned["test_accuracy"]
