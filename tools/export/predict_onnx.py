"""Classifies images: python predict_onnx.py [--int8] IMAGE|FOLDER…   (needs onnxruntime, numpy, pillow and these files)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
MANIFEST = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))


def read_pixels(path: Path) -> np.ndarray:
    """uint8 (H, W, 3): upright, on white, resized as CLIP's transform does it; the graph normalizes them."""
    image, how = ImageOps.exif_transpose(Image.open(path)), MANIFEST["preprocess"]
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image, (height, width) = image.convert("RGB"), how["size"]
    if how["resize"] == "squash":
        return np.asarray(image.resize((width, height), how["resample"]))
    image = image.resize([int(height * n / min(image.size)) for n in image.size], how["resample"])
    left, top = round((image.width - height) / 2), round((image.height - height) / 2)
    return np.asarray(image.crop((left, top, left + height, top + height)))


name = "classifier_int8.onnx" if "--int8" in sys.argv else "classifier.onnx"
given = [argument for argument in sys.argv[1:] if argument != "--int8"]
if not given or not (HERE / name).is_file():
    sys.exit(__doc__ if not given else f"error: {HERE / name}: no such file; export with --int8 for an 8-bit form")
session = onnxruntime.InferenceSession(HERE / name, providers=["CPUExecutionProvider"])
kinds = Image.registered_extensions()
found = [sorted(f for f in a.rglob("*") if f.suffix.lower() in kinds) if a.is_dir() else [a] for a in map(Path, given)]
for path in (file for files in found for file in files):
    try:
        logits = session.run(None, {"pixels": read_pixels(path)[None]})[0][0].astype(np.float64)
    except (OSError, ValueError, SyntaxError) as error:
        sys.exit(f"error: {path}: cannot be read ({error})")
    print(path, MANIFEST["classnames"][logits.argmax()], f"{1 / np.exp(logits - logits.max()).sum():.4f}", sep="\t")
