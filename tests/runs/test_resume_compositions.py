"""Resuming optimizers whose state is more than a point: updates with averages, and an automatic change point."""

from __future__ import annotations

from pathlib import Path

import pytest

from main_sharpzo import main
from tests.helpers.runs import FLAGS, folder_of, outcome, stop_in_call
from utils.interrupt import Interrupted


@pytest.mark.parametrize(
    ("trainer", "options"),
    [
        ("fo", ["--zo_update", "adam"]),
        ("fo", ["--zo_update", "momentum"]),
        ("cge", ["--zo_update", "adam"]),
        ("forward-gradient", ["--zo_update", "momentum"]),
        ("sparse-mezo", ["--zo_update", "sign", "--prune_interval", "2"]),
        ("cma-es", ["--sigma_adaptation", "tpa"]),
        ("bbt", ["--sigma_adaptation", "tpa"]),
        ("sharpzo", ["--change_point", "auto"]),
    ],
)
def test_run_interrupted_twice_ends_like_an_uninterrupted_one(
    trainer: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_mini: None
) -> None:
    flags = [*FLAGS, "--prompt_trainer", trainer, *options]
    assert main([*flags, "--output_dir", str(tmp_path / "whole")]) == 0
    interrupted = [*flags, "--output_dir", str(tmp_path / "interrupted")]
    for number in (5, 2):
        with monkeypatch.context() as patch:
            stop_in_call(patch, number, Interrupted("test"))
            assert main(interrupted) == 3
    assert main(interrupted) == 0
    whole, resumed = (folder_of(tmp_path / name, trainer) for name in ("whole", "interrupted"))
    assert outcome(resumed) == outcome(whole)
