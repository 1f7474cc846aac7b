"""Curves as inline SVG by matplotlib, whose points show their values under the pointer."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tools.common.plotting import group_thousands, start
from utils.numbers import ceil_div

MOST_POINTS = 60


@dataclass(frozen=True)
class Curve:
    """Points (x, y) with a label, and perhaps a band from `low` to `high`."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = field(default_factory=tuple)
    high: Sequence[float] = field(default_factory=tuple)


def curves_svg(name: str, curves: Sequence[Curve], xlabel: str, ylabel: str, change: float | None = None) -> str:
    """The curves as an <svg> element. `name`: unique on the page. `change`: where stage 2 starts."""
    import matplotlib
    import matplotlib.pyplot as plt

    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure, axes = start(figsize=(6.4, 3.4))
        values: dict[str, str] = {}
        for number, curve in enumerate(curves):
            (line,) = axes.plot(curve.x, curve.y, label=curve.label, linewidth=1.4)
            if len(curve.low):
                axes.fill_between(curve.x, curve.low, curve.high, alpha=0.2, color=line.get_color(), linewidth=0)
            step = max(1, ceil_div(len(curve.x), MOST_POINTS))
            for position in sorted({*range(0, len(curve.x), step), len(curve.x) - 1}):
                x, y = curve.x[position], curve.y[position]
                gid = f"{name}-{number}-{position}"
                axes.plot([x], [y], "o", markersize=3.5, color=line.get_color(), gid=gid)
                values[gid] = f"{curve.label}: {y:.4g} at {x:,.6g} {xlabel}"
        if change is not None:
            axes.axvline(change, color="0.4", linewidth=0.9, linestyle=":")
            place = {"xycoords": ("data", "axes fraction"), "xytext": (3, 0), "textcoords": "offset points"}
            axes.annotate("stage 2", (change, 0.95), fontsize=8, **place)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        group_thousands(axes.xaxis)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', "", svg, count=1).replace("<svg ", f'<svg role="img" class="{name}" ', 1)
    # identifiers of two figures on one page must differ
    svg = re.sub(r'(id="|url\(#|href="#)((?!' + re.escape(name) + r"-)[^\")]+)", rf"\1{name}-\2", svg)
    for gid, text in values.items():
        svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}" class="point"><title>{html.escape(text)}</title>', 1)
    return svg
