"""--load_prompt on images of other classes: the prompt is scored, and a line says that the names differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from main_sharpzo import main
from tests.helpers.data import draw_images
from tests.helpers.runs import FLAGS, folder_of


def test_prompt_on_a_folder_with_other_names_is_scored_with_a_warning(
    tmp_path: Path, one_mini: None, capsys: pytest.CaptureFixture
) -> None:
    assert main([*FLAGS, "--output_dir", str(tmp_path)]) == 0
    prompt = str(folder_of(tmp_path, "sharpzo") / "prompt.safetensors")
    for name in ("cat", "dog", "fish"):
        draw_images(tmp_path / "pets" / name, *(f"{n}.png" for n in range(10)))
    flags = ["--load_prompt", prompt, "--dataset", "folder", "--root_path", str(tmp_path / "pets"), "--backbone", "Mini"]
    capsys.readouterr()
    assert main([*flags, "--output_dir", str(tmp_path / "scored")]) == 0
    out = capsys.readouterr().out
    assert "warning: the prompt was trained for 10 classes (zero, one, two, …) and is scored on 3 others (cat, dog, fish)" in out
    [path] = (tmp_path / "scored").rglob("result.json")
    result = json.loads(path.read_text())
    # random images: the score is over all three names, not that of a single name predicted for every image
    assert result["test_accuracy"] < 100
    assert [row["class"] for row in result["classes"]] == ["cat", "dog", "fish"]


def test_prompt_on_its_own_names_is_scored_without_a_warning(
    tmp_path: Path, one_mini: None, capsys: pytest.CaptureFixture
) -> None:
    assert main([*FLAGS, "--output_dir", str(tmp_path)]) == 0
    prompt = str(folder_of(tmp_path, "sharpzo") / "prompt.safetensors")
    capsys.readouterr()
    assert main(["--load_prompt", prompt, "--output_dir", str(tmp_path / "scored")]) == 0
    assert "the prompt was trained for" not in capsys.readouterr().out
