"""Fixtures of whole runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import main_sharpzo
from tests.helpers.outcomes import EUROSAT_CLASSES, FLAGS, Call, Outcome


@pytest.fixture
def call(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    """Calls main with output below tmp_path/outputs; `folder` is where under it the run is expected."""

    def run(*argv: str, folder: str = "digits/sharpzo/Mini/16shots/seed1") -> Outcome:
        capfd.readouterr()
        status = main_sharpzo.main(["--output_dir", str(tmp_path / "outputs"), *argv])
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err, tmp_path / "outputs" / folder)

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One finished run of FLAGS, shared by the tests that only read it."""
    root = tmp_path_factory.mktemp("finished")
    status = main_sharpzo.main([*FLAGS, "--output_dir", str(root)])
    return Outcome(status, "", "", root / "digits/sharpzo/Mini/16shots/seed1")


@pytest.fixture
def eurosat(tmp_path: Path) -> Path:
    """A root folder with a EuroSAT of three classes: 2 train, 1 val and 1 test image each."""
    folder = tmp_path / "data" / "eurosat"
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(EUROSAT_CLASSES):
        (folder / "2750" / name).mkdir(parents=True)
        for number, part in enumerate(("train", "train", "val", "test"), start=1):
            path = f"{name}/{name}_{number}.jpg"
            Image.new("RGB", (64, 64), (80 * label, 50 * number, 30)).save(folder / "2750" / path)
            split[part].append([path, label, name])
    (folder / "split_zhou_EuroSAT.json").write_text(json.dumps(split))
    return tmp_path / "data"
