"""The two exceptions that main tells in one line, and what it takes to keep it one."""

LONGEST_WORD = 400


class OneLineError(Exception):
    """Its text is one line, and one that can be read, whatever it quotes: a word of over 400 letters loses its end."""

    def __str__(self) -> str:
        return " ".join(word if len(word) <= LONGEST_WORD else shortened(word) for word in super().__str__().split())


class UserError(OneLineError):
    """The user gave something that cannot work: what was wrong, where, and what to do. Exit status 2."""


class RunError(OneLineError):
    """The run cannot go on, through no fault of its input. Exit status 1."""


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can write it; a file name that is no UTF-8, or half a surrogate pair in JSON, it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shortened(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
