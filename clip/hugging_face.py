"""Converts weights from the layout of Hugging Face's CLIPModel to that of open_clip's CLIP."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor

MARK = "text_model.embeddings.token_embedding.weight"
# complete names
NAMES = {
    MARK: "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "logit_scale": "logit_scale",
}
# Hugging Face stores a projection as the weight (out, in) of a linear layer, open_clip as a matrix (in, out)
TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
TOWERS = {"text_model": "transformer", "vision_model": "visual.transformer"}
LAYER = re.compile(r"(text_model|vision_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
# open_clip stacks the three input projections of attention in one matrix, in this order
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def is_hugging_face(state: dict[str, Tensor]) -> bool:
    return MARK in state


def to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under open_clip's names. An unknown name stays unchanged, so that loading reports it."""
    converted: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        layer = LAYER.fullmatch(name)
        if name.endswith("position_ids"):
            continue
        if layer and layer[3] in QKV:
            target = f"{TOWERS[layer[1]]}.resblocks.{layer[2]}.attn.in_proj_{layer[4]}"
            joined.setdefault(target, {})[layer[3]] = tensor
        elif layer and layer[3] in PARTS:
            converted[f"{TOWERS[layer[1]]}.resblocks.{layer[2]}.{PARTS[layer[3]]}.{layer[4]}"] = tensor
        elif name in TRANSPOSED:
            converted[TRANSPOSED[name]] = tensor.T
        else:
            converted[NAMES.get(name, name)] = tensor
    whole = {target: parts for target, parts in joined.items() if all(key in parts for key in QKV)}
    return converted | {target: torch.cat([parts[key] for key in QKV]) for target, parts in whole.items()}


def uses_quick_gelu(path: Path) -> bool | None:
    """Whether the model was trained with QuickGELU, according to the config.json next to its weights; None without that file."""
    try:
        config = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        # transformers leaves defaults out of a config.json, and QuickGELU is the default
        return config.get("text_config", {}).get("hidden_act", "quick_gelu") == "quick_gelu"
    except (OSError, ValueError, AttributeError):
        return None
