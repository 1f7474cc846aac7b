"""Plots accuracy or loss against queries or seconds, for several runs or methods, as PNG or PDF.

    python -m tools.plot outputs/digits --output accuracy.pdf
    python -m tools.plot RUN1 RUN2 --y loss --x seconds --output loss.png

Runs that differ only in their seed are drawn as one curve: their mean, with their range as a band.
"""

from __future__ import annotations

import sys

import numpy as np

from tools.common.cells import by_cell
from tools.common.cli import command, make_parser, user_path
from tools.common.plotting import finish, group_thousands, require_matplotlib, start
from tools.common.runs import find_runs
from utils.errors import UserError

LABELS = {
    "test_accuracy": "test accuracy (%)",
    "val_accuracy": "validation accuracy (%)",
    "loss": "training loss",
    "queries": "queries",
    "seconds": "seconds",
}


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.plot", __doc__)
    parser.add_argument("runs", type=user_path, nargs="+", metavar="RUN", help="run folders, or folders of runs at any depth")
    parser.add_argument("--output", type=user_path, required=True, metavar="FILE", help=".png or .pdf")
    parser.add_argument("--y", choices=("test_accuracy", "val_accuracy", "loss"), default="val_accuracy")
    parser.add_argument("--x", choices=("queries", "seconds"), default="queries")
    arguments = parser.parse_args(argv)
    if arguments.output.suffix not in (".png", ".pdf"):
        raise UserError(f"--output: {arguments.output}: must end in .png or .pdf")
    require_matplotlib()
    runs, _ = find_runs(arguments.runs)
    cells, warnings = by_cell([run for run in runs if run.result.get("queries")])
    if not cells:
        raise UserError(f"{arguments.runs[0]}: holds no finished run that trained a prompt")
    figure, axes = start()
    for cell, members in cells.items():
        points = [run.curve(arguments.x, arguments.y) for run in members]
        grid = np.unique(np.concatenate([x for x, _ in points]))
        values = np.array([np.interp(grid, x, y) for x, y in points])
        (line,) = axes.plot(grid, values.mean(0), label=f"{cell} (n = {len(members)})")
        axes.fill_between(grid, values.min(0), values.max(0), alpha=0.2, color=line.get_color(), linewidth=0)
    axes.set_xlabel(LABELS[arguments.x])
    axes.set_ylabel(LABELS[arguments.y])
    group_thousands(axes.xaxis)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    print(finish(figure, arguments.output))
    for warning in warnings:
        print(warning, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
