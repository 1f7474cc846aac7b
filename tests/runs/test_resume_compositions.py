"""Resuming optimizers whose state is more than a point: updates with averages, and an automatic change point."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.runs import FLAGS, outcome, whole_and_resumed


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
def test_run_interrupted_twice_ends_like_an_uninterrupted_run(
    trainer: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_mini: None
) -> None:
    whole, resumed = whole_and_resumed([*FLAGS, *options], trainer, tmp_path, monkeypatch)
    assert outcome(resumed) == outcome(whole)
