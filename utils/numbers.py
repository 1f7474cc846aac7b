"""Integer arithmetic that Python has no name for."""

from __future__ import annotations


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up.

    >>> ceil_div(7, 2), ceil_div(6, 2), ceil_div(0, 2)
    (4, 3, 0)
    """
    return -(-a // b)
