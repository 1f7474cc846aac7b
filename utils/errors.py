"""The one exception that means: the user gave something that cannot work, and this is what to do about it."""


class UserError(Exception):
    """Its text is one clear line: what was wrong, where, and what to do. main prints it and exits with status 2."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can write it; a file name that is no UTF-8, or half a surrogate pair in JSON, it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shortened(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


class RunError(Exception):
    """The run cannot go on, through no fault of its input: one line, exit status 1."""
