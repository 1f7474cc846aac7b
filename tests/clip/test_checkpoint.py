"""The common formats of CLIP weights: recognized by content, converted, or refused with the reason."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from clip.backbone import load_backbone
from clip.bundled import weights_of
from clip.checkpoint import read_state_dict
from clip.hugging_face import NAMES, PARTS, QKV, TOWERS, TRANSPOSED
from tests.helpers.data import refusal

CPU = torch.device("cpu")
STATE = {"visual.conv1.weight": torch.ones(2), "token_embedding.weight": torch.zeros(3)}


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": prefixed("module."), "optimizer": {"param_groups": [{"lr": 1e-3}]}},
        prefixed("_orig_mod."),
        {"state_dict": prefixed("module._orig_mod.")},
        {"state_dict": prefixed("_orig_mod.module.")},
        {"model": STATE, "epoch": 3},
        {"model": {"state_dict": STATE}},
        {"model_state_dict": STATE, "optimizer_state_dict": {}},
        {"state_dict": prefixed("model."), "pytorch-lightning_version": "2.0"},
        {"state_dict": STATE, "args": argparse.Namespace(lr=1e-3), "loss": np.float64(0.5)},
        {**STATE, "input_resolution": torch.tensor(224)},
    ],
)
def test_weights_are_found_in_every_common_wrapping(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    assert read_state_dict(tmp_path / "w.pt").keys() == STATE.keys()


def test_content_decides_the_format_and_not_the_suffix(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.bin")
    torch.save(STATE, tmp_path / "w.safetensors")
    for name in ("w.bin", "w.safetensors"):
        assert read_state_dict(tmp_path / name).keys() == STATE.keys()


def test_an_object_of_unknown_type_is_named_without_torchs_advice(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "model": torch.nn.ReLU()}, tmp_path / "w.pt")
    message = refusal(read_state_dict, tmp_path / "w.pt")
    assert "torch.nn.modules.activation.ReLU" in message
    assert "weights_only" not in message


@pytest.fixture(scope="module")
def small() -> Iterator[torch.nn.Module]:
    torch.manual_seed(0)
    yield open_clip.create_model("ViT-B-32-quickgelu", pretrained=None, force_patch_dropout=None).eval()


def to_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of the conversion, written from the layouts' names."""
    renamed = {}
    for name, tensor in state.items():
        tower = next((key for key, prefix in TOWERS.items() if name.startswith(f"{prefix}.resblocks.")), None)
        if tower:
            number, part = name.removeprefix(f"{TOWERS[tower]}.resblocks.").split(".", 1)
            base = f"{tower}.encoder.layers.{number}"
            if "in_proj" in part:
                for key, third in zip(QKV, tensor.chunk(3), strict=True):
                    renamed[f"{base}.{key}.{part.rpartition('_')[2]}"] = third.contiguous()
            else:
                module, _, kind = part.rpartition(".")
                renamed[f"{base}.{ {ours: theirs for theirs, ours in PARTS.items()}[module] }.{kind}"] = tensor
        else:
            whole = {ours: theirs for theirs, ours in NAMES.items()}
            projections = {ours: theirs for theirs, ours in TRANSPOSED.items()}
            renamed[whole.get(name) or projections[name]] = tensor.T.contiguous() if name in projections else tensor
    return renamed


@pytest.mark.slow
def test_hugging_faces_layout_is_converted(small: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(to_hugging_face(small.state_dict()), path)
    loaded = load_backbone("ViT-B/32", CPU, str(path)).model.state_dict()
    for name, tensor in small.state_dict().items():
        assert torch.equal(loaded[name], tensor), name
    (tmp_path / "config.json").write_text('{"text_config": {"hidden_act": "gelu"}}')
    assert "QuickGELU" in refusal(load_backbone, "ViT-B/32", CPU, str(path))


@pytest.mark.parametrize("name", ["logit_scale", "visual.proj", "token_rows"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_tensor(name: str, value: float, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = {key: tensor.clone() for key, tensor in load_file(weights_of("Mini")).items()}
    state[name].view(-1)[0] = value
    save_file(state, tmp_path / "w.safetensors")
    message = refusal(load_backbone, "Mini", CPU, str(tmp_path / "w.safetensors"))
    assert message.startswith(f"--checkpoint: {tmp_path / 'w.safetensors'}: ")
    assert "1 of" in message
