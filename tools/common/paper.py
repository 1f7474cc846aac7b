"""The paper's own figures, from paper.json beside this file. They are never ours: whoever shows one says so."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

# tables that hold a test accuracy of a method on a dataset at 16 shots, in the order in which they are asked
ACCURACY = ("table1", "table5", "table4")


@functools.cache
def tables() -> dict[str, dict[str, Any]]:
    """Table name → what it holds, and its rows: backbone, method, values by column, printed average, note."""
    return json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))["tables"]


def value(table: str, method: str, column: str, backbone: str = "ViT-B/16") -> float | None:
    """A cell of one of the paper's tables, None where it prints none; the column "average" is the printed one."""
    for row in tables()[table]["rows"]:
        if (row["method"], row["backbone"]) == (method, backbone):
            return row.get("average") if column == "average" else row["values"].get(column)
    return None


def accuracy(method: str, dataset: str, backbone: str) -> float | None:
    """The paper's 16-shot test accuracy in percent, or None."""
    found = (value(table, method, dataset, backbone) for table in ACCURACY)
    return next((number for number in found if number is not None), None)
