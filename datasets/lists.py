"""Text files of one entry per line, as datasets bring them: every entry knows its line."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from utils.errors import UserError

# what Windows editors and PowerShell write at the beginning of a text file → its encoding
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, or of one whose byte order mark names another encoding. Raises OSError or UnicodeDecodeError."""
    content = path.read_bytes()
    encoding = next((encoding for mark, encoding in MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding)


def list_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(FILE:LINE, text) for each line of a list file. Raises UserError for a blank line and for a file that is not text."""
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: the list is missing") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save the list as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UserError(f"{path}: the list is empty")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise UserError(f"{path}:{number}: the line is blank")
        yield f"{path}:{number}", line.strip()
