"""The paper's own numbers, from paper.json beside this file. They are never ours: a table that shows one says so."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from tools.common.names import canonical

# Tables with test accuracies of a method on a dataset at 16 shots, in the order of lookup.
ACCURACY = ("table1", "table5", "table4")


@functools.cache
def tables() -> dict[str, dict[str, Any]]:
    """Table name → its subject and rows: backbone, method, values by column, printed average, note."""
    found: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))["tables"]
    return found


def value(table: str, method: str, column: str, backbone: str = "ViT-B/16") -> float | None:
    """A cell of one of the paper's tables, or None; the column "average" is the printed average."""
    for row in tables()[table]["rows"]:
        if (canonical(row["method"]), row["backbone"]) == (canonical(method), backbone):
            found: float | None = row.get("average") if column == "average" else row["values"].get(column)
            return found
    return None


def accuracy(method: str, dataset: str, backbone: str) -> float | None:
    """The paper's 16-shot test accuracy in percent, or None."""
    found = (value(table, method, dataset, backbone) for table in ACCURACY)
    return next((number for number in found if number is not None), None)
