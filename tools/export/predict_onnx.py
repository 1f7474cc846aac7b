"""Classifies images: python predict_onnx.py [--int8] IMAGE…   (needs onnxruntime, numpy and pillow, and the files beside it)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

HERE = Path(__file__).resolve().parent
MANIFEST = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))


def read_pixels(path: str) -> np.ndarray:
    """uint8 (H, W, 3): resized as CLIP's transform does it; the graph normalizes them."""
    image, how = Image.open(path).convert("RGB"), MANIFEST["preprocess"]
    height, width = how["size"]
    if how["resize"] == "squash":
        return np.asarray(image.resize((width, height), how["resample"]))
    short, side = min(image.size), height
    image = image.resize([side if n == short else int(side * n / short) for n in image.size], how["resample"])
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def main(arguments: list[str]) -> None:
    name = "classifier_int8.onnx" if "--int8" in arguments else "classifier.onnx"
    session = onnxruntime.InferenceSession(HERE / name, providers=["CPUExecutionProvider"])
    for path in (argument for argument in arguments if argument != "--int8"):
        logits = session.run(None, {"pixels": read_pixels(path)[None]})[0][0].astype(np.float64)
        probabilities = np.exp(logits - logits.max())
        best = int(logits.argmax())
        print(f"{path}\t{MANIFEST['classnames'][best]}\t{probabilities[best] / probabilities.sum():.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
