"""Scores Icons towers: accuracy on the bundled icon sets, zero-shot and by a linear classifier."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from clip.bundled import build_bundled
from datasets.icons import read_icon_file
from tools.maintain.icon_corpus import normalize


def score(weights: Path, config: dict[str, Any], sets: Path, device: torch.device, template: str) -> dict[str, dict[str, float]]:
    """Prints and returns the result of `score_set` for every icon set in the folder `sets`, by name."""
    model = build_bundled(config, load_file(weights))[0].to(device)
    tokenizer = SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    rows = {}
    for path in sorted(sets.glob("icons_*.safetensors")):
        rows[path.stem] = score_set(path, model, tokenizer, template, device)
        cells = "  ".join(f"{key} {value:.1f}" for key, value in rows[path.stem].items())
        print(f"{weights.stem}  {path.stem}: {cells}", flush=True)
    return rows


@torch.inference_mode()
def score_set(
    path: Path, model: CLIP, tokenizer: Callable[[Sequence[str]], Tensor], template: str, device: torch.device
) -> dict[str, Any]:
    """Percent correct on the test part: zero-shot, and by ridge regression on up to 16 training pictures per class."""
    file = read_icon_file(path)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in file.pictures])
    images = normalize(torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255)
    features = torch.cat([model.encode_image(chunk, normalize=True) for chunk in images.split(512)])
    labels, parts = torch.tensor(file.labels, device=device), torch.tensor(file.parts, device=device)
    prompts = tokenizer([template.replace("{}", name) for name in file.classes]).to(device)
    classes = model.encode_text(prompts, normalize=True)
    test = parts == 2
    logits = features[test] @ classes.T
    cross_entropy = F.cross_entropy(model.logit_scale.exp() * logits, labels[test])
    result = {
        "zero-shot": 100 * float((logits.argmax(1) == labels[test]).float().mean()),
        "cross-entropy": float(cross_entropy),
    }
    shots = [torch.nonzero((parts == 0) & (labels == label))[:16, 0] for label in range(len(file.classes))]
    chosen = torch.cat(shots)
    if len(chosen):
        x, y = features[chosen], F.one_hot(labels[chosen], len(file.classes)).float()
        solved = torch.linalg.solve(x.T @ x + 0.3 * torch.eye(x.shape[1], device=device), x.T @ (y - y.mean(0)))
        result["ridge"] = 100 * float(((features[test] @ solved).argmax(1) == labels[test]).float().mean())
    return result
