"""Exports a tuned prompt for a device that only classifies: no text tower, no PyTorch, no SharpZO.

    python -m tools.export outputs/digits/sharpzo/Mini/16shots/seed1 --output exported
    python exported/predict_onnx.py photo.png

Writes classifier.safetensors (K × D, logit scale included), image_encoder.onnx, classifier.onnx (encoder and head; 8-bit pixels
in, normalization inside, any batch size), manifest.json and predict_onnx.py, which needs onnxruntime, numpy and pillow alone. The
graphs are compared with PyTorch on the run's own dataset; the figures are printed and kept in manifest.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from tools.common.cli import command, make_parser, user_path, user_path_text
from tools.common.runs import root_of_run
from tools.export import checks, int8
from tools.export.graph import Head, ImageEncoder, build, preprocessing, write_onnx
from trainers.classifier import Classifier
from utils.errors import RunError, UserError
from utils.files import sha256, write_json

PACKAGES = ("torch", "open_clip_torch", "onnx", "onnxruntime", "onnxscript")
PROGRAM = Path(__file__).with_name("predict_onnx.py")


def require_packages() -> None:
    """Raises UserError naming the packages that are missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {', '.join(missing)}; pip install -e '.[export]' in the clone brings them")


def write_graphs(encoder: ImageEncoder, head: Head, size: tuple[int, int], output: Path) -> None:
    save_file({"weights": head.weights.contiguous()}, output / "classifier.safetensors")
    write_onnx(encoder, size, "features", output / "image_encoder.onnx")
    write_onnx(nn.Sequential(encoder, head), size, "logits", output / "classifier.onnx")


def check(encoder: ImageEncoder, head: Head, sets: checks.CheckSets, output: Path, quantize: bool) -> dict[str, Any]:
    """The figures of manifest.json. Raises RunError if a graph is wrong."""

    def torch_features(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return encoder(torch.from_numpy(pixels)).numpy()

    def torch_logits(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return head(encoder(torch.from_numpy(pixels))).numpy()

    onnx_features, onnx_logits = checks.session(output / "image_encoder.onnx"), checks.session(output / "classifier.onnx")
    pixels, labels = sets.test
    batches = checks.compare_batches((torch_features, onnx_features), (torch_logits, onnx_logits), pixels)
    reference = checks.all_logits(torch_logits, pixels)
    parameters = sum(tensor.nbytes for tensor in [*encoder.state_dict().values(), *head.state_dict().values()])
    forms = {"torch": (torch_logits, parameters), "onnx": (onnx_logits, (output / "classifier.onnx").stat().st_size)}
    refused = None
    if quantize:
        path = output / "classifier_int8.onnx"
        int8.quantize(output / "classifier.onnx", path, sets.train[0])
        small = checks.session(path)
        before, after = (checks.accuracy(checks.all_logits(run, sets.val[0]), sets.val[1]) for run in (onnx_logits, small))
        lost = {"val_accuracy": before, "val_accuracy_int8": after, "val_images": len(sets.val[1])}
        if before - after > int8.MOST_LOST:
            path.unlink()
            refused = lost
        else:
            forms["onnx int8"] = small, path.stat().st_size
    rows = {}
    for name, (run, size) in forms.items():
        logits = checks.all_logits(run, pixels)
        rows[name] = {
            "test_accuracy": checks.accuracy(logits, labels),
            "label_agreement": checks.accuracy(logits, reference.argmax(1)),
            "bytes": size,
            "milliseconds": round(checks.milliseconds(run, pixels), 3),
        }
    figures: dict[str, Any] = {"batches": batches, "test_images": len(labels), "forms": rows}
    if quantize:
        figures["int8"] = lost | {"refused": refused is not None}
    return figures


def print_checks(figures: dict[str, Any]) -> None:
    for row in figures["batches"]:
        worst, cosine = row["largest_logit_difference"], row["worst_cosine"]
        print(f"batch {row['batch']}: largest logit difference {worst:.2e}, worst cosine {cosine:.7f}")
    print(f"on {figures['test_images']} test images:")
    print(f"{'form':10}  {'test accuracy':>13}  {'agreement':>9}  {'MB':>7}  {'ms/image':>8}")
    for name, row in figures["forms"].items():
        shares = f"{row['test_accuracy']:12.2f}%  {row['label_agreement']:8.2f}%"
        print(f"{name:10}  {shares}  {row['bytes'] / 1e6:7.2f}  {row['milliseconds']:8.2f}")


def manifest(classifier: Classifier, figures: dict[str, Any] | None, output: Path) -> dict[str, Any]:
    about = classifier.about
    source = {key: about[key] for key in ("prompt_trainer", "dataset", "shots", "seed")}
    written = sorted(path for path in output.iterdir() if path.suffix in (".onnx", ".safetensors", ".py"))
    return {
        "classnames": list(classifier.classnames),
        "preprocess": preprocessing(classifier) | {"in_graph": ["mean", "std"]},
        "backbone": {"name": classifier.backbone.name, "weights_sha256": about["weights_sha256"]},
        "prompt": source | {"sha256": sha256(Path(str(classifier.config.load_prompt))), "zero_shot": classifier.zero_shot},
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in written},
        "versions": {name: metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "checks": figures,
    }


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("tools.export", __doc__)
    parser.add_argument("prompt", type=user_path, help="run folder or prompt.safetensors")
    parser.add_argument("--output", type=user_path, required=True, metavar="DIR")
    parser.add_argument("--int8", action="store_true", help="also an 8-bit form; refused if it loses over 0.5 points of accuracy")
    parser.add_argument("--zero_shot", action="store_true", help="the run's template instead of its prompt")
    parser.add_argument("--root_path", type=user_path_text, help="folder of the dataset; default: that of the run")
    parser.add_argument("--checkpoint", type=user_path_text, help="the backbone's weight file, if it moved since the run")
    parser.add_argument("--check_images", type=int, default=1000, help="most validation and test images (0: all; default: 1000)")
    parser.add_argument("--checks", action=argparse.BooleanOptionalAction, default=True, help="compare the graphs with PyTorch")
    arguments = parser.parse_args(argv)
    if arguments.int8 and not arguments.checks:
        raise UserError("--int8: is kept only if it passes its check; leave out --no-checks")
    return arguments


@command
def main(argv: list[str]) -> int:
    arguments = parse(argv)
    require_packages()
    classifier = Classifier.load(arguments.prompt, "cpu", zero_shot=arguments.zero_shot, checkpoint=arguments.checkpoint)
    encoder, head = build(classifier)
    root = root_of_run(arguments.prompt, arguments.root_path)
    sets = checks.load_sets(classifier, root, arguments.check_images) if arguments.checks else None
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_graphs(encoder, head, classifier.backbone.image_size, arguments.output)
    shutil.copyfile(PROGRAM, arguments.output / PROGRAM.name)
    figures = check(encoder, head, sets, arguments.output, arguments.int8) if sets else None
    write_json(arguments.output / "manifest.json", manifest(classifier, figures, arguments.output))
    if figures:
        print_checks(figures)
    print(arguments.output)
    if figures and figures.get("int8", {}).get("refused"):
        lost = figures["int8"]
        raise RunError(
            f"--int8: refused: validation accuracy falls from {lost['val_accuracy']:.2f}% to {lost['val_accuracy_int8']:.2f}%, "
            f"more than {int8.MOST_LOST} points; the float32 files are complete"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
