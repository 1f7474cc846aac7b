"""Methods by the name that tables and figures print."""

from __future__ import annotations

from collections.abc import Callable

from trainers import TRAINERS

canonical: Callable[[str], str] = getattr(TRAINERS, "canonical", lambda name: "zo-pruned" if name == "sharpzo" else name)
OURS = canonical("zo-pruned")


def title(method: str) -> str:
    """The published name of a trainer ("SharpZO"); of an unknown one its key."""
    if method not in TRAINERS:
        return method
    return getattr(TRAINERS[method], "title", "") or ("SharpZO" if canonical(method) == OURS else method)


def row_title(method: str, variant: str = "") -> str:
    """ "SharpZO", or "SharpZO, rho0.5" for runs with a --run_name."""
    return f"{title(method)}, {variant}" if variant else title(method)


def label(row: str) -> str:
    """A row of a table as printed: "Mini, zip, same queries" is "Mini, ZIP, same queries"."""
    return ", ".join(title(part) for part in row.split(", "))
