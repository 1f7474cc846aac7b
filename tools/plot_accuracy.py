"""Draws accuracy against queries from the metrics.jsonl of finished runs: mean and range over seeds, zero-shot as a star at 0.

    python -m tools.plot_accuracy outputs/digits/sharpzo/Mini/16shots --output docs/digits.png

Each folder holds one subfolder per seed. Draws test accuracy if the runs logged it (`--eval_test`), else validation accuracy.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np

from tools.common.cli import command, make_parser, user_path
from tools.common.names import title
from tools.common.plotting import finish, require_matplotlib, start
from tools.common.runs import read_run
from utils.errors import UserError

# Four line styles and matplotlib's ten colors give twenty distinct curves.
STYLES = ("-", "--", "-.", ":")


def draw(folders: list[Path], output: Path) -> None:
    require_matplotlib()
    figure, axes = start()
    for style, folder in zip(itertools.cycle(STYLES), folders, strict=False):
        runs = [read_run(path) for path in sorted(folder.glob("seed*"))]
        if not runs:
            raise UserError(f"{folder}: has no seed* folder; give the folder above the seeds")
        key = "test_accuracy" if all("test_accuracy" in run.metrics[-1] for run in runs) else "val_accuracy"
        points = [run.curve("queries", key) for run in runs]
        # Seeds of one setting make the same queries unless the change point is automatic; the union covers both.
        grid = np.unique(np.concatenate([queries for queries, _ in points]))
        curves = np.array([np.interp(grid, queries, accuracies) for queries, accuracies in points])
        result = runs[0].result
        seeds = f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"
        where = f"{result['dataset']}, {result['backbone']}, {result['shots']} shots"
        label = f"{title(result['trainer'])}, {where} (mean and range of {seeds})"
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
    print(finish(figure, output))


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.plot_accuracy", __doc__)
    parser.add_argument("folders", type=user_path, nargs="+", help="folders of seed* runs")
    parser.add_argument("--output", type=user_path, required=True, help="image file to write")
    arguments = parser.parse_args(argv)
    draw(arguments.folders, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
