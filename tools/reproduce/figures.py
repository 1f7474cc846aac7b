"""The paper's curves, readable in black and white: a line style and a marker each, with bands of one standard deviation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.common.names import label, title
from tools.common.plotting import finish, start
from tools.common.runs import FinishedRun
from tools.reproduce.results import Results, shots_run
from tools.reproduce.suites import SHOTS
from utils.errors import UserError

STYLES = (
    ("-", "o", "0.0"),
    ("--", "s", "0.35"),
    (":", "^", "0.1"),
    ("-.", "D", "0.5"),
    ((0, (5, 1)), "v", "0.25"),
    ((0, (1, 1)), "x", "0.6"),
    ("-", "^", "0.6"),
    ("--", "o", "0.0"),
    ("-.", "s", "0.2"),
    (":", "D", "0.45"),
)
MARKERS = 8
# Points of a curve on a logarithmic axis; all logged ones would crowd its end.
POINTS = 60


def band(runs: Sequence[FinishedRun], x: str, y: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and population standard deviation of `y` over runs, at the values of `x` that all of them cover."""
    curves = [run.curve(x, y) for run in runs]
    first, last = max(xs[0] for xs, _ in curves), min(xs[-1] for xs, _ in curves)
    every = np.unique(np.concatenate([xs for xs, _ in curves]))
    at = every[(every >= first) & (every <= last)]
    values = np.array([np.interp(at, xs, ys) for xs, ys in curves])
    return at, values.mean(0), values.std(0)


def draw_curves(results: Results, column: str, path: Path, heading: str, x: str = "queries", logarithmic: bool = False) -> Path:
    """Test accuracy of each row against queries (or seconds). Zero-shot is a star at 0, on a `logarithmic` axis a line."""
    figure, axes = start(**({"figsize": (8.4, 4.6)} if logarithmic else {}))
    labels = [row for row in results.rows if (row, column) in results.cells]
    if not labels:
        raise UserError(f"{path.name}: none of its runs is finished")
    unit = 1000 if x == "queries" and not logarithmic else 1
    trained = [row for row in labels if results.cells[row, column][0].result["queries"]]
    for row, (style, marker, gray) in zip(trained, itertools.cycle(STYLES)):
        runs = results.cells[row, column]
        at, mean, std = band(runs, x, "test_accuracy")
        if logarithmic:
            # Start at the first evaluated step; before it there is only zero-shot.
            every = np.geomspace(max(run.curve(x, "test_accuracy")[0][1] for run in runs), at[-1], POINTS)
            at, mean, std = every, *(np.interp(every, at, values) for values in (mean, std))
        at = at / unit
        options = {"linestyle": style, "color": gray, "marker": marker, "markevery": max(1, len(at) // MARKERS), "markersize": 4}
        axes.plot(at, mean, label=f"{label(row)} (n = {len(runs)})", linewidth=1.2, **options)
        axes.fill_between(at, mean - std, mean + std, color=gray, alpha=0.15, linewidth=0)
        switch = stage2_start(runs[0], x)
        if switch is not None:
            axes.plot(switch / unit, np.interp(switch / unit, at, mean), "|", color=gray, markersize=14)
    zero = results.cells[labels[0], column][0].result["zero_shot_accuracy"]
    if logarithmic:
        axes.axhline(zero, color="black", linewidth=0.8, label=title("zero-shot"))
        axes.set_xscale("log")
    else:
        axes.plot(0, zero, "*", markersize=13, color="black", clip_on=False, zorder=3, label=title("zero-shot"))
        axes.set_xlim(left=0)
    axes.set_xlabel(
        f"queries{' (thousand)' if unit > 1 else ''}: loss evaluations" if x == "queries" else "time (s), without evaluations"
    )
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(heading, fontsize="medium")
    axes.grid(alpha=0.3)
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if logarithmic else {}
    note = f"mean ± one population standard deviation{chr(10) if logarithmic else '; '}| : change point"
    axes.legend(fontsize="small", title=note, title_fontsize="x-small", **beside)
    return finish(figure, path)


def draw_panels(results: Results, datasets: Sequence[str], path: Path) -> Path:
    """A column per dataset: test accuracy above, training cross-entropy below, against queries on a logarithmic axis."""
    shown = [dataset for dataset in datasets if any(column == dataset for _, column in results.cells)]
    if not shown:
        raise UserError(f"{path.name}: none of its runs is finished")
    figure, panels = start(nrows=2, ncols=len(shown), figsize=(3.3 * len(shown), 5.2), squeeze=False, sharex=True)
    rows = [row for row in results.rows if any((row, dataset) in results.cells for dataset in shown)]
    for j, dataset in enumerate(shown):
        for i, y in enumerate(("test_accuracy", "train_loss")):
            for row, (line, marker, gray) in zip(rows, itertools.cycle(STYLES)):
                runs = [run for run in results.cells.get((row, dataset), ()) if run.result["queries"]]
                if runs:
                    draw_band(panels[i][j], runs, y, row, {"linestyle": line, "color": gray, "marker": marker})
        known = [run.result["zero_shot_accuracy"] for row in rows for run in results.cells.get((row, dataset), ())]
        panels[0][j].axhline(known[0], color="black", linewidth=0.8, label=title("zero-shot"))
        panels[0][j].set_title(dataset, fontsize="medium")
        panels[1][j].set_xlabel("queries")
    panels[0][0].set_ylabel("test accuracy (%)")
    panels[1][0].set_ylabel("training cross-entropy")
    panels[0][-1].legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return finish(figure, path)


def draw_band(axes: Any, runs: Sequence[FinishedRun], y: str, row: str, style: Mapping[str, Any]) -> None:
    """The mean of `y` over runs against queries from the first evaluation on, with a band of one standard deviation."""
    at, mean, std = band(runs, "queries", y)
    every = np.geomspace(max(run.curve("queries", y)[0][1] for run in runs), at[-1], POINTS)
    mean, std = (np.interp(every, at, values) for values in (mean, std))
    axes.plot(every, mean, label=label(row), linewidth=1.2, markevery=POINTS // MARKERS, markersize=4, **style)
    axes.fill_between(every, mean - std, mean + std, color=style["color"], alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    # Labels of the ticks between powers of ten would overlap.
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)


def stage2_start(run: FinishedRun, x: str) -> float | None:
    """Where stage 2 begins; None for a run with one stage."""
    stages = {entry["stage"] for entry in run.metrics}
    return max(entry[x] for entry in run.metrics if entry["stage"] == 1) if stages == {1, 2} else None


def draw_shots(results: Results, datasets: Sequence[str], path: Path) -> Path:
    """CoOp's figure: test accuracy against labeled images per class, a panel per dataset with several; star: zero-shot."""
    run = shots_run(results, datasets)
    if not run:
        raise UserError(f"{path.name}: no dataset has finished runs with two numbers of training images")
    figure, panels = start(ncols=len(run), figsize=(3.4 * len(run), 3.2), squeeze=False)
    for axes, dataset in zip(panels[0], run, strict=True):
        for (style, marker, gray), row in zip(STYLES, [row for row in results.rows if row != "zero-shot"], strict=False):
            points = [(count, figures) for count in SHOTS if (figures := results.sample(row, f"{dataset}, {count}"))]
            if points:
                heights = [figures.mean for _, figures in points]
                errors = [0.0 if figures.n == 1 else figures.half for _, figures in points]
                options = {"linestyle": style, "marker": marker, "color": gray, "capsize": 2, "markersize": 4}
                seeds = sorted({figures.n for _, figures in points})
                n = f"n = {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))}"
                name = f"{label(row)} ({n})"
                axes.errorbar([count for count, _ in points], heights, errors, label=name, linewidth=1.2, **options)
        figures = results.sample("zero-shot", f"{dataset}, {SHOTS[-1]}")
        if figures:
            axes.plot(0, figures.mean, "*", markersize=13, color="black", clip_on=False, label=title("zero-shot"))
        axes.set_title(dataset, fontsize="medium")
        axes.set_xticks([0, *SHOTS])
        axes.set_xlabel("labeled training images per class")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("test accuracy (%), 95% t-interval")
    panels[0][0].legend(fontsize="x-small")
    return finish(figure, path)


def draw_surfaces(surfaces: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Fig. 2b: loss around each point along the same two directions, with the same levels; both as contour lines on gray."""
    figure, panels = start(ncols=len(surfaces), figsize=(3.9 * len(surfaces), 3.6), squeeze=False)
    losses = np.concatenate([surface["losses"].ravel() for surface in surfaces.values()])
    levels = np.linspace(losses.min(), losses.max(), 15)
    for axes, (name, surface) in zip(panels[0], surfaces.items(), strict=True):
        at = surface["at"]
        filled = axes.contourf(at, at, surface["losses"], levels, cmap="Greys")
        lines = axes.contour(at, at, surface["losses"], levels[::2], colors="black", linewidths=0.6)
        axes.clabel(lines, fontsize=6, fmt="%.2f")
        axes.plot(0, 0, "+", color="black", markersize=10)
        axes.set_title(f"{name}\nloss at the center {surface['center']:.3f}", fontsize="small")
        axes.set_xlabel("along direction 1 (‖Δw‖₂)")
    panels[0][0].set_ylabel("along direction 2 (‖Δw‖₂)")
    figure.colorbar(filled, ax=panels[0].tolist(), label="training loss (cross-entropy)", format="%.3f")
    return finish(figure, path)
