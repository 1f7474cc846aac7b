"""Scores many prompt contexts at once with the engine, and compares it with open_clip's tower on whole prompts."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from clip.backbone import load_backbone
from clip.prompt import context_embeddings
from clip.text import TextFeatures

names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
backbone = load_backbone("Mini", torch.device("cpu"))
context = context_embeddings(backbone, "a photo of a")
noise = torch.randn(40, *context.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
contexts = context + 0.1 * noise

features, seconds = {}, {}
for engine in ("fast", "stock"):
    text = TextFeatures(backbone, names, "a photo of a", memory_limit=1 << 30, engine=engine)
    with torch.inference_mode():
        text(contexts)
        started = time.perf_counter()
        features[engine] = text(contexts)
    seconds[engine] = time.perf_counter() - started
difference = float((features["fast"] - features["stock"]).abs().max())
print(f"40 contexts x 10 names: {seconds['stock'] / seconds['fast']:.1f} times faster, largest difference {difference:.1e}")
