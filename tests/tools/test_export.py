"""The exported files give the prompt's own labels, at any batch size and without PyTorch; int8 that loses accuracy is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from clip.backbone import Backbone
from datasets.digits import read_digits
from main_sharpzo import main as run_main
from tests.helpers.runs import FLAGS
from trainers.classifier import Classifier

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from tools.export import int8  # noqa: E402
from tools.export.__main__ import main  # noqa: E402
from tools.export.graph import ImageEncoder, write_onnx  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_mini")

# a device without PyTorch, as the program sees it
WITHOUT_TORCH = """
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "open_clip", "clip", "datasets", "trainers", "tools", "utils"}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def tuned(output: Path, trainer: str, *flags: str) -> Path:
    assert run_main([*FLAGS, "--prompt_trainer", trainer, "--output_dir", str(output), *flags]) == 0
    (prompt,) = output.rglob("prompt.safetensors")
    return prompt.parent


def export(run: Path, output: Path, *flags: str) -> dict:
    assert main([str(run), "--output", str(output), "--check_images", "20", *flags]) == 0
    return json.loads((output / "manifest.json").read_text())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of PyTorch and of onnxruntime that wait for each other's cores make the timed passes 100 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("trainer", "flags"),
    [
        ("sharpzo", []),
        ("sharpzo", ["--backbone", "Mini-RN"]),
        ("craft", []),
        ("bpt-vlm", ["--deep"]),
        ("blackvip", ["--pt_backbone", "clip", "--max_queries", "20"]),
    ],
)
def test_graph_agrees_with_the_classifier_at_every_batch_size(trainer: str, flags: list[str], tmp_path: Path) -> None:
    run, output = tuned(tmp_path / "run", trainer, *flags), tmp_path / "exported"
    manifest = export(run, output)
    assert [row["batch"] for row in manifest["checks"]["batches"]] == [1, 2, 7]
    assert all(row["largest_logit_difference"] < 1e-3 for row in manifest["checks"]["batches"])
    assert all(row["worst_cosine"] > 0.99999 for row in manifest["checks"]["batches"])
    assert manifest["checks"]["forms"]["onnx"]["label_agreement"] == 100
    # compared with the classifier, which shares no code with the graph after the decoder
    classifier, digits = Classifier.load(run, "cpu"), read_digits()
    pictures = [digits.open_image(item) for item in digits.test[:5]]
    session = onnxruntime.InferenceSession(output / "classifier.onnx")
    height, width = classifier.backbone.image_size
    logits = session.run(None, {"pixels": np.stack([np.asarray(picture.resize((width, height), 3)) for picture in pictures])})[0]
    expected = torch.stack([outcome.logits for outcome in classifier.stream(pictures)])
    assert np.abs(logits - expected.numpy()).max() < 1e-3


def test_program_gives_the_same_labels_without_torch(tmp_path: Path) -> None:
    run, output, digits = tuned(tmp_path / "run", "sharpzo"), tmp_path / "exported", read_digits()
    export(run, output, "--no-checks")
    assert len((output / "predict_onnx.py").read_text().splitlines()) <= 40
    paths = []
    for i, item in enumerate(digits.test[:12]):
        # taller and wider pictures too, so that the resize and the crop matter
        picture = digits.open_image(item).resize((30 + 7 * (i % 3), 45 - 4 * (i % 5)))
        picture.save(tmp_path / f"{i}.png")
        paths.append(str(tmp_path / f"{i}.png"))
    command = [sys.executable, "-I", "-c", WITHOUT_TORCH, str(output / "predict_onnx.py"), *paths]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    labels, probabilities = Classifier.load(run, "cpu").predict(paths)
    assert [row[:2] for row in rows] == [[path, label] for path, label in zip(paths, labels, strict=True)]
    assert np.allclose([float(row[2]) for row in rows], probabilities.max(1).values, atol=1e-3)


def test_program_reads_pictures_as_the_classifier_does_and_explains_its_errors(tmp_path: Path) -> None:
    run, output, digits = tuned(tmp_path / "run", "sharpzo"), tmp_path / "exported", read_digits()
    export(run, output, "--no-checks")
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    (folder / "notes.txt").write_text("not a picture")
    upright = digits.open_image(digits.test[3]).resize((48, 40))
    turned = Image.Exif()
    turned[0x0112] = 6  # a phone held upright: to be turned by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "phone.png", exif=turned)
    glass = upright.convert("RGBA")
    glass.putalpha(upright.convert("L"))
    glass.save(folder / "deeper" / "glass.png")

    def classify(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(output / "predict_onnx.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    rows = [line.split("\t") for line in classify(str(folder)).stdout.splitlines()]
    assert [Path(row[0]).name for row in rows] == ["glass.png", "phone.png"]
    labels, probabilities = Classifier.load(run, "cpu").predict([row[0] for row in rows])
    assert [row[1] for row in rows] == labels
    assert np.allclose([float(row[2]) for row in rows], probabilities.max(1).values, atol=1e-3)
    for arguments, message in [
        ((str(folder / "notes.txt"),), "notes.txt: cannot be read"),
        (("missing.png",), "missing.png: cannot be read"),
        (("--int8", str(folder)), "export with --int8"),
        ((), "Classifies images"),
    ]:
        done = classify(*arguments)
        assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_weights_hold_the_logit_scale_and_the_manifest_what_the_files_are(tmp_path: Path) -> None:
    run, output = tuned(tmp_path / "run", "sharpzo"), tmp_path / "exported"
    manifest = export(run, output, "--no-checks")
    classifier = Classifier.load(run, "cpu")
    weights = load_file(output / "classifier.safetensors")["weights"]
    assert np.allclose(np.linalg.norm(weights, axis=1), classifier.backbone.logit_scale)
    assert manifest["classnames"] == list(classifier.classnames) and manifest["checks"] is None
    assert set(manifest["files"]) == {"classifier.safetensors", "image_encoder.onnx", "classifier.onnx", "predict_onnx.py"}
    assert manifest["backbone"]["weights_sha256"] == classifier.backbone.fingerprint()


def test_int8_is_exported_or_refused_with_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run, output = tuned(tmp_path / "run", "sharpzo"), tmp_path / "exported"
    # on few images, a label or two may change in either direction
    monkeypatch.setattr(int8, "MOST_LOST", 5.0)
    manifest = export(run, output, "--int8")
    figures = manifest["checks"]["int8"]
    assert not figures["refused"] and abs(figures["val_accuracy"] - figures["val_accuracy_int8"]) <= 5
    sizes = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    assert sizes["classifier_int8.onnx"] < sizes["classifier.onnx"] / 2
    monkeypatch.setattr(int8, "MOST_LOST", -100.0)
    capsys.readouterr()
    assert main([str(run), "--output", str(output), "--check_images", "60", "--int8"]) == 1
    error = capsys.readouterr().err
    assert "--int8: refused: validation accuracy falls from" in error and len(error.splitlines()) == 1
    assert not (output / "classifier_int8.onnx").exists() and (output / "classifier.onnx").exists()


def test_unsupported_export_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = tuned(tmp_path / "run", "tip-adapter")
    capsys.readouterr()
    assert main([str(run), "--output", str(tmp_path / "exported")]) == 2
    assert "tip-adapter has no text features" in capsys.readouterr().err and not (tmp_path / "exported").exists()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main([str(run), "--output", str(tmp_path / "exported")]) == 2
    assert "pip install -e '.[export]'" in capsys.readouterr().err


@pytest.mark.slow
def test_tower_of_published_size_agrees(tmp_path: Path) -> None:
    """ViT-B/16 with 86 million random weights."""
    import open_clip

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None).eval().requires_grad_(False)
    backbone = Backbone("ViT-B/16", model, lambda texts: texts, lambda picture: picture, torch.device("cpu"))
    encoder = ImageEncoder(backbone.model.visual, [0.5] * 3, [0.25] * 3).eval()
    write_onnx(encoder, backbone.image_size, "features", tmp_path / "image_encoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "image_encoder.onnx")
    for batch in (1, 2, 7):
        pixels = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            expected = encoder(pixels).numpy()
        (features,) = session.run(None, {"pixels": pixels.numpy()})
        assert np.abs(features - expected).max() < 1e-4
