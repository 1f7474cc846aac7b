"""The log of a run that a sweep started: all that it printed, and how it ended."""

from __future__ import annotations

from pathlib import Path

# The last line of the log of a run that failed.
STATUS_LINE = "[exit status {}]"


def last_line(log: Path) -> str:
    return next(reversed(_lines(log)), "")


def note_failure(log: Path, status: int) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{STATUS_LINE.format(status)}\n")


def failure(log: Path) -> str | None:
    """The last line that a failed run printed, or its exit status; None for the log of a run that did not fail."""
    *before, last = ["", *_lines(log)] if log.is_file() else [""]
    start, end = STATUS_LINE.split("{}")
    return (before[-1] or last) if last.startswith(start) and last.endswith(end) else None


def _lines(log: Path) -> list[str]:
    return [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
