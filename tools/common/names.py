"""Methods by the name that tables and figures print."""

from __future__ import annotations

from trainers import TRAINERS
from utils.config import FIELDS

OURS = str(FIELDS["prompt_trainer"].default)


def canonical(method: str) -> str:
    """A trainer's own name for a name or an alias; an unknown name as given."""
    key = TRAINERS.canonical(method)
    return OURS if key == TRAINERS.canonical(OURS) else key


def title(method: str) -> str:
    """The published name of a trainer ("SharpZO"); of an unknown one its key."""
    return TRAINERS[method].title or method if method in TRAINERS else method


def row_title(method: str, variant: str = "") -> str:
    """ "SharpZO", or "SharpZO, rho0.5" for runs with a --run_name."""
    return f"{title(method)}, {variant}" if variant else title(method)


def label(row: str) -> str:
    """A row of a table as printed: "Mini, zip, same queries" is "Mini, ZIP, same queries"."""
    return ", ".join(title(part) for part in row.split(", "))
