"""Features and prompts that are not finite are found before anything is scored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from datasets.features import FeatureReader
from main_sharpzo import main
from tests.helpers.runs import FLAGS, folder_of

pytestmark = pytest.mark.usefixtures("one_mini")


@pytest.mark.parametrize("trainer", ["sharpzo", "zero-shot"])
def test_features_that_are_not_finite_are_refused_and_leave_no_folder(
    trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = FeatureReader.__call__

    def damaged(self: FeatureReader, *arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        features, labels = read(self, *arguments)  # type: ignore[arg-type]
        features = features.clone()
        features[3, 0] = float("nan")
        return features, labels

    monkeypatch.setattr(FeatureReader, "__call__", damaged)
    assert main([*FLAGS, "--prompt_trainer", trainer, "--output_dir", str(tmp_path / "outputs")]) == 1
    assert "NaN or infinite features for this image (1 in all)" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_prompt_that_is_not_finite_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FLAGS, "--output_dir", str(tmp_path)]) == 0
    path = folder_of(tmp_path, "sharpzo") / "prompt.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors["context"].view(-1)[0] = float("inf")
    save_file(tensors, path, metadata)
    assert main(["--load_prompt", str(path), "--output_dir", str(tmp_path / "scored")]) == 2
    assert f"{path}: context has NaN or infinite values" in capsys.readouterr().err
    assert not (tmp_path / "scored").exists()
