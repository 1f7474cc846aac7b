"""The bundled tiny CLIPs, Mini (ViT) and Mini-RN (ResNet): open_clip's own towers, with weights in the files of this folder.

A weight file holds every weight in half precision, but only the rows of the 49408 × 128 token embedding that training updated
(`token_ids`, `token_rows`). Any other token keeps its initial row: row i of a table of N(0, 0.02²) numbers drawn by a
torch.Generator with seed 0. `tools/maintain/train_mini.py` trained them; README.md in this folder describes how.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP

FOLDER = Path(__file__).parent
TOKEN_STD = 0.02


def weights_of(name: str) -> Path:
    """The weight file of one of `clip.MINIS`."""
    return FOLDER / f"{name.lower()}.safetensors"


def model_config(name: str) -> dict[str, Any]:
    """open_clip's description of the towers: widths, layers, sizes."""
    return json.loads((FOLDER / f"{name.lower()}.json").read_text())


def initial_token_table(name: str) -> torch.Tensor:
    """The (49408, 128) float32 token embedding before training; tokens without updates keep their row of it."""
    text = model_config(name)["text_cfg"]
    noise = torch.randn(text["vocab_size"], text["width"], generator=torch.Generator().manual_seed(0))
    return noise * TOKEN_STD


def build_mini(name: str, weights: dict[str, torch.Tensor]) -> tuple[CLIP, frozenset[int]]:
    """The model in float32, in evaluation mode, and the token ids that training updated, from the file's tensors by name."""
    state = {key: tensor.float() for key, tensor in weights.items()}
    ids, rows = state.pop("token_ids").long(), state.pop("token_rows")
    table = initial_token_table(name)
    table[ids] = rows
    model = CLIP(**model_config(name))
    model.load_state_dict({**state, "token_embedding.weight": table})
    return model.eval(), frozenset(ids.tolist())
