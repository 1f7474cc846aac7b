"""The two exceptions that `main` reports as a single line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST_WORD = 400


class OneLineError(Exception):
    """Its text is one readable line, whatever it quotes: words of over 400 letters are shortened.

    `quiet`: whether another rank of the run prints the same line; None if the ranks have not agreed on it.
    """

    quiet: bool | None = None

    def __str__(self) -> str:
        return " ".join(word if len(word) <= LONGEST_WORD else shortened(word) for word in super().__str__().split())


class UserError(OneLineError):
    """Invalid arguments or data: what is wrong, where, and what to do. Exit status 2."""


class RunError(OneLineError):
    """The run failed through no fault of its input. Exit status 1."""


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can encode it; it cannot for a file name of other bytes, or an unpaired surrogate in JSON."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shortened(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def nearest(word: str, names: Iterable[str]) -> str:
    """A suggestion for a misspelled word, in parentheses after a blank, or nothing if no name is close."""
    close = difflib.get_close_matches(str(word)[:80], list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
