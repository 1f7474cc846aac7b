"""The bundled tiny CLIPs, Mini (ViT) and Mini-RN (ResNet): open_clip's own towers, weights in the files beside this one.

A weight file holds every weight in half precision, but only those rows of the 49408 × 128 token embedding that training touched
(`token_ids`, `token_rows`). Any other token has the row it started from: row i of a table of N(0, 0.02²) numbers that a
torch.Generator with seed 0 draws. `tools/maintain/train_mini.py` made them, and README.md beside this file says how.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from open_clip.model import CLIP

FOLDER = Path(__file__).parent
TOKEN_STD = 0.02


def weights_of(name: str) -> Path:
    """Where the weights of one of `clip.MINIS` lie."""
    return FOLDER / f"{name.lower()}.safetensors"


def model_config(name: str) -> dict:
    """open_clip's description of the towers: widths, layers, sizes."""
    return json.loads((FOLDER / f"{name.lower()}.json").read_text())


def initial_token_table(name: str) -> torch.Tensor:
    """The (49408, 128) float32 token embedding before training; untouched tokens keep their row of it."""
    text = model_config(name)["text_cfg"]
    noise = torch.randn(text["vocab_size"], text["width"], generator=torch.Generator().manual_seed(0))
    return noise * TOKEN_STD


def build_mini(name: str, weights: dict[str, torch.Tensor]) -> tuple[CLIP, frozenset[int]]:
    """The model in float32, in evaluation mode, and the token ids that training touched, from the file's tensors by name."""
    state = {key: tensor.float() for key, tensor in weights.items()}
    ids, rows = state.pop("token_ids").long(), state.pop("token_rows")
    table = initial_token_table(name)
    table[ids] = rows
    model = CLIP(**model_config(name))
    model.load_state_dict({**state, "token_embedding.weight": table})
    return model.eval(), frozenset(ids.tolist())
