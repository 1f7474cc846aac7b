"""Interpretation: a token equal to a word is recognized as that word, and any other is reported as meaningless."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from clip.prompt import context_embeddings, load_prompt, save_prompt
from main_sharpzo import main as run_main
from tests.conftest import MINI
from tests.helpers.runs import FLAGS
from tools.interpret import main
from tools.plot import main as plot

pytestmark = pytest.mark.usefixtures("one_mini")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    assert run_main([*FLAGS, "--std", "1.0", "--output_dir", str(tmp_path / "runs")]) == 0
    (prompt,) = (tmp_path / "runs").rglob("prompt.safetensors")
    return prompt.parent


def test_words_are_recognized_and_a_shifted_context_is_meaningless(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(run)]) == 0
    text = capsys.readouterr().out
    result = json.loads((run / "result.json").read_text())
    assert f"test accuracy {result['test_accuracy']:.2f}%" in text and "the words mean nothing" in text
    tensors, about = load_prompt(run / "prompt.safetensors")
    tensors["context"] = context_embeddings(MINI[0], "a photo of a")
    save_prompt(run / "prompt.safetensors", tensors, about)
    assert main([str(run)]) == 0
    text = capsys.readouterr().out
    rows = re.findall(r"^ +\d  +([\d.]+) .*?'(\w+)' \(([\d.]+)\)", text, re.MULTILINE)
    assert rows == [("0.00", word, "0.00") for word in ("a", "photo", "of", "a")]
    assert "4 of 4 tokens lie clearly nearer to a word" in text
    assert torch.equal(tensors["context"], tensors["p0"])


def test_prompt_on_the_pixels_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_main([*FLAGS, "--prompt_trainer", "blackvip", "--output_dir", str(tmp_path)]) == 0
    (prompt,) = tmp_path.rglob("prompt.safetensors")
    capsys.readouterr()
    assert main([str(prompt)]) == 2
    assert "prompts the image too" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_plot_writes_the_format_of_its_suffix(suffix: str, run: Path, tmp_path: Path) -> None:
    output = tmp_path / f"curve{suffix}"
    assert plot([str(run), "--y", "loss", "--x", "seconds", "--output", str(output)]) == 0
    assert output.read_bytes().startswith({".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix])


def test_plot_of_a_curve_that_was_not_logged_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (run / "metrics.jsonl").write_text('{"step": 0, "queries": 0, "val_accuracy": 50}\n')
    capsys.readouterr()
    assert plot([str(run), "--y", "test_accuracy", "--output", str(tmp_path / "curve.png")]) == 2
    assert "no step logged test_accuracy" in capsys.readouterr().err
    assert plot([str(run), "--output", str(tmp_path / "curve.gif")]) == 2
