"""Every example is short and runs as its docstring says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from datasets.digits import read_digits
from utils.config import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    # one thread: more do not speed up models this small, and slow them down on a busy machine
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training images of each of three digits, in a folder per class."""
    root, digits = tmp_path_factory.mktemp("pictures"), read_digits()
    for name in ("zero", "one", "four"):
        (root / name).mkdir()
        for number, item in enumerate([item for item in digits.train if item.classname == name][:12]):
            digits.open_image(item).save(root / name / f"{number:02d}.png")
    return root


def test_examples_are_short() -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLES.glob("*.py")}
    assert len(lengths) == 5 and all(length < 40 for length in lengths.values()), lengths


def test_black_box_is_tuned() -> None:
    start, end = re.findall(r"start ([\d.]+), end ([\d.]+)", run("any_black_box.py"))[0]
    assert float(end) < float(start) / 5


def test_optimizer_descends() -> None:
    text = run("write_an_optimizer.py")
    assert "60 steps need 1020 queries" in text and float(text.split()[-1]) < 0.01


def test_engine_agrees_with_the_tower() -> None:
    (difference,) = re.findall(r"largest difference ([\d.e-]+)", run("score_prompts.py"))
    assert float(difference) < 1e-5


def test_folder_of_pictures_is_tuned_classified_and_exported(pictures: Path, tmp_path: Path) -> None:
    images = sorted(pictures.rglob("0[01].png"))
    lines = run("folder_of_pictures.py", pictures, tmp_path / "runs", *images).splitlines()[-len(images) :]
    assert [line.rpartition(": ")[0] for line in lines] == [str(image) for image in images]
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    (prompt,) = (tmp_path / "runs").rglob("prompt.safetensors")
    text = run("onnx_on_a_folder.py", prompt.parent, pictures, tmp_path / "exported")
    labels = dict(line.split("\t")[:2] for line in text.splitlines() if "\t" in line)
    assert len(labels) == 36
    assert all(labels[str(image)] == line.rpartition(": ")[2].split()[0] for image, line in zip(images, lines, strict=True))
