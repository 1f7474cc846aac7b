"""The CLIPs in this repository, Mini and Icons (ViT) and Mini-RN and Icons-RN (ResNet): open_clip's own towers.

A weight file holds all weights in half precision, but of the token embedding only the rows that training updated (`token_ids`,
`token_rows`). Every other token has its initial row: row i of a (49408, width) table of N(0, 0.02²) numbers that a
torch.Generator with seed 0 draws. The README.md next to each file says how `tools/maintain` trained it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP

FOLDERS = {"Mini": "mini", "Mini-RN": "mini", "Icons": "icons", "Icons-RN": "icons"}
TOKEN_STD = 0.02


def weights_of(name: str) -> Path:
    """The weight file of one of `clip.BUNDLED`."""
    return Path(__file__).parent / FOLDERS[name] / f"{name.lower()}.safetensors"


def model_config(name: str) -> dict[str, Any]:
    """open_clip's description of the towers: widths, layers, sizes."""
    return json.loads(weights_of(name).with_suffix(".json").read_text())


def initial_token_table(config: dict[str, Any]) -> torch.Tensor:
    """The (49408, width) float32 token embedding before training, from which tokens outside the training data keep their row."""
    text = config["text_cfg"]
    return TOKEN_STD * torch.randn(text["vocab_size"], text["width"], generator=torch.Generator().manual_seed(0))


def build_bundled(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> tuple[CLIP, frozenset[int]]:
    """The model in float32, in evaluation mode, and the token ids that training updated, from the tensors of a file."""
    state = {key: tensor.float() for key, tensor in weights.items()}
    ids, rows = state.pop("token_ids").long(), state.pop("token_rows")
    table = initial_token_table(config)
    table[ids] = rows
    model = CLIP(**config)
    model.load_state_dict({**state, "token_embedding.weight": table})
    return model.eval(), frozenset(ids.tolist())
