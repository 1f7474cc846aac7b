"""The findings of one part of the check, and the objective that the parts measure."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from clip.backbone import Backbone
from clip.prompt import context_embeddings, make_projection
from clip.text import TextFeatures
from trainers.blackbox.batches import FullBatch
from trainers.blackbox.objective import Objective
from trainers.blackbox.samples import Samples
from trainers.blackbox.text_prompt import TextPrompt

Row = dict[str, Any]
CTX_INIT = "a photo of a"
SHOTS = 16


class Report(dict[str, Any]):
    """The findings of a part, written to its file after every entry, with a list of `failures`."""

    def __init__(self, path: Path):
        super().__init__(failures=[])
        self.path = path

    def note(self, name: str, value: object) -> None:
        self[name] = value
        self.path.write_text(json.dumps(self, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {value}", flush=True)

    def require(self, holds: bool, failure: str) -> None:
        if not holds:
            self["failures"].append(failure)
            self.note("failures", self["failures"])


def on(device: torch.device, backbone: Backbone) -> Backbone:
    return dataclasses.replace(backbone, model=backbone.model.to(device), device=device)


def set_replay(text: TextFeatures, replay: bool) -> None:
    if text.engine:
        text.engine.replay = replay


def make_objective(
    backbone: Backbone, names: list[str], d: int, std: float, precision: str, engine: str = "fast"
) -> tuple[Objective, TextFeatures]:
    """Random image features, SHOTS per class, as in tools.benchmark, on the backbone's device."""
    K, width = len(names), backbone.model.text_projection.shape[1]
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(SHOTS * K, width, generator=generator), dim=-1).to(backbone.device)
    images = Samples(features, (torch.arange(SHOTS * K) % K).to(backbone.device))
    projection = make_projection(context_embeddings(backbone, CTX_INIT), d, std, torch.Generator().manual_seed(1))
    text = TextFeatures(backbone, names, CTX_INIT, 4 << 30, engine)
    model = TextPrompt(projection.contexts, text_features=text, logit_scale=100.0, classes=K, width=width, memory_limit=4 << 30)
    return Objective(model, FullBatch(images, 0), precision), text
