"""Text files of one entry a line, as datasets bring them: every entry knows its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from utils.errors import UserError


def list_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(FILE:LINE, text) for each line of a list file. Raises UserError for a blank line or one that is no text."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: the list is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UserError(f"{path}: the list is empty")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise UserError(f"{path}:{number}: the line is blank")
        yield f"{path}:{number}", line.strip()
