"""One setting: its default, help text and limits."""

from __future__ import annotations

import dataclasses
from typing import Any


def option(default: Any, group: str, help: str, *, kind: type | None = None, **limits: Any) -> Any:
    """A field of Config. `limits`: choices, low, high (inclusive), above, below (exclusive), words (allowed besides a number)."""
    metadata = {"group": group, "help": help, "kind": kind or type(default), **limits}
    return dataclasses.field(default=default, metadata=metadata)
