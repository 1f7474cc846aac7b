"""Fixtures of the tests of settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def from_yaml(tmp_path: Path) -> Callable[[str], str]:
    """Writes a config file and gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "given.yaml"
        path.write_text(text)
        return str(path)

    return write
