"""Writing whole files or none, and asking whether anyone looks at the terminal."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` in one move, so that a reader never sees half a file."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def is_terminal() -> bool:
    """Whether progress bars have someone to look at them."""
    return sys.stderr.isatty()
