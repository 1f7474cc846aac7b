"""Printing where the encoding of standard output lacks characters: every command, in full, without an error."""

from __future__ import annotations

import importlib
import io
import re
import sys

import pytest

import main_sharpzo
from tools.__main__ import commands
from utils.config import REPOSITORY
from utils.terminal import encode_anything, spelled


def printed_by(monkeypatch: pytest.MonkeyPatch, encoding: str, module: str, *argv: str) -> str:
    """What a command prints on a standard output with this encoding."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(module).main(list(argv))
        stream.flush()
    assert ended.value.code == 0
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("name", ["main_sharpzo", *commands()])
def test_help_is_readable_in_any_encoding(name: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = "." if name == "main_sharpzo" else "tools."
    module = f"{folder}{name}{'.__main__' if (REPOSITORY / 'tools' / name / '__main__.py').exists() else ''}".lstrip(".")
    text = printed_by(monkeypatch, encoding, module, "--help")
    assert len(text) > 200
    assert not re.search(r"\\u[0-9a-f]{4}|\\x[0-9a-f]{2}", text)


def test_settings_are_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(printed_by(monkeypatch, "ascii", "main_sharpzo", "--help").split())
    assert "sigma, initial CMA-ES step" in text and "box +-bound on w" in text and "beta1 of the momentum" in text


def test_names_stay_distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    encode_anything()
    print("café → cafe, 猫 80.1 ± 2.0", flush=True)
    assert raw.getvalue() == b"caf\\xe9 -> cafe, \\u732b 80.1 +- 2.0\n"
    assert [spelled(character) for character in "εβ₂ᵀ²≤Σ"] == ["epsilon", "beta", "2", "^T", "^2", "<=", "Sigma"]


def test_run_reports_its_result_in_any_encoding(monkeypatch: pytest.MonkeyPatch, tmp_path: object, one_mini: None) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main_sharpzo.main(["--prompt_trainer", "zero-shot", "--output_dir", str(tmp_path)]) == 0
    stream.flush()
    assert b"zero-shot 59.70% -> 59.70%" in raw.getvalue()
