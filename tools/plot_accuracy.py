"""Draws accuracy against queries from the metrics.jsonl of finished runs: mean and range over seeds, zero-shot as a star at 0.

    python -m tools.plot_accuracy outputs/digits/zo-pruned/Mini/16shots --output docs/digits.png

Each folder given holds one sub-folder a seed. Test accuracy is drawn where runs logged it (`--eval_test`), else validation.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np

from tools.common.plotting import require_matplotlib
from tools.common.runs import read_run
from utils.errors import UserError

# with matplotlib's ten colors, twenty curves that differ
STYLES = ("-", "--", "-.", ":")


def draw(folders: list[Path], output: Path) -> None:
    require_matplotlib()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for style, folder in zip(itertools.cycle(STYLES), folders, strict=False):
        runs = [read_run(path) for path in sorted(folder.glob("seed*"))]
        if not runs:
            raise UserError(f"{folder}: holds no seed* folder")
        key = "test_accuracy" if all("test_accuracy" in run.metrics[-1] for run in runs) else "val_accuracy"
        points = [run.curve("queries", key) for run in runs]
        # seeds of one setting ask the same queries unless the change point is automatic: draw the common grid
        grid = np.unique(np.concatenate([queries for queries, _ in points]))
        curves = np.array([np.interp(grid, queries, accuracies) for queries, accuracies in points])
        result = runs[0].result
        seeds = f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"
        label = (
            f"{result['trainer']}, {result['dataset']}, {result['backbone']}, {result['shots']} shots (mean and range of {seeds})"
        )
        (line,) = axes.plot(grid / 1000, curves.mean(0), style, label=label)
        axes.fill_between(grid / 1000, curves.min(0), curves.max(0), alpha=0.2, color=line.get_color(), linewidth=0)
        change = next((entry["queries"] for entry in runs[0].metrics if entry["stage"] == 2 and key in entry), None)
        if change is not None:
            axes.axvline(change / 1000, color="0.5", linewidth=0.8, linestyle=":")
            axes.annotate(
                "stage 2", (change / 1000, 0.96), xycoords=("data", "axes fraction"), xytext=(3, 0), textcoords="offset points"
            )
        if key == "test_accuracy":
            axes.plot(0, result["zero_shot_accuracy"], "*", markersize=13, color="black", clip_on=False, zorder=3)
    axes.plot([], [], "*", markersize=13, color="black", label="zero-shot")
    axes.set_xlabel("queries (thousand forward passes over the training set)")
    axes.set_ylabel(f"{key.split('_')[0]} accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)
    print(output)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of seed* runs")
    parser.add_argument("--output", type=Path, required=True, help="picture to write")
    arguments = parser.parse_args()
    try:
        draw(arguments.folders, arguments.output)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
