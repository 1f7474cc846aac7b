"""Matplotlib without a display: opens and saves a figure."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from utils.errors import UserError

SIZE = (6.4, 3.8)


def require_matplotlib() -> None:
    """Raises UserError if it is missing, before hours of runs whose results are to be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("figures need matplotlib; pip install matplotlib")


def start(**options: Any) -> tuple[Any, Any]:
    """A figure and its axes, drawn without a display."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained", **({"figsize": SIZE} | options))


def group_thousands(axis: Any) -> None:
    """Ticks of whole numbers as "34,740"."""
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value == int(value) else f"{value:g}")


def finish(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
