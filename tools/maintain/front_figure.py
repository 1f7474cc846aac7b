"""Draws README's figure from recorded runs: test accuracy of each method against its queries, with zero-shot as a line.

python -m tools.maintain.front_figure docs/mini/runs.csv --output docs/front.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.common.cli import command, make_parser, user_path
from tools.common.names import OURS, title
from tools.common.plotting import finish, require_matplotlib, start
from tools.reproduce.plans import table1
from tools.reproduce.results import Results, recorded_runs
from tools.reproduce.suites import SUITES, JobFactory
from utils.errors import UserError
from utils.settings import Config

ZERO_SHOT = "zero-shot"
SAME_QUERIES = "same queries"
MARKERS = "osD^vP"


def draw(results: Results, methods: Sequence[str], backbone: str, output: Path) -> Path:
    """One panel per dataset; the budgets of one method are joined by a line."""
    columns = list(results.columns)
    figure, panels = start(ncols=len(columns), figsize=(9.6, 3.4), squeeze=False)
    for axes, column in zip(panels[0], columns, strict=True):
        for number, method in enumerate(methods):
            rows = [f"{backbone}, {method}", f"{backbone}, {method}, {SAME_QUERIES}"]
            # Methods with equal budgets would hide each other's intervals.
            draw_method(axes, results, [row for row in rows if results.sample(row, column)], column, number, 1.09 ** (number - 2))
        zero = results.sample(f"{backbone}, {ZERO_SHOT}", column)
        if zero:
            axes.axhline(zero.mean, color="black", linewidth=0.9, linestyle="--", label=title(ZERO_SHOT))
        axes.set_xscale("log")
        axes.set_xlim(3_500, 60_000)
        axes.set_xticks([5_000, 10_000, 20_000, 40_000], ["5,000", "10,000", "20,000", "40,000"])
        axes.minorticks_off()
        axes.set_title(column, fontsize="medium")
        axes.grid(alpha=0.3)
        axes.set_xlabel("queries")
    panels[0][0].set_ylabel("test accuracy (%)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return finish(figure, output)


def draw_method(axes: Any, results: Results, rows: Sequence[str], column: str, number: int, shift: float) -> None:
    samples = [figures for row in rows if (figures := results.sample(row, column))]
    queries = [shift * results.cells[row, column][0].result["queries"] for row in rows]
    heights, errors = [figures.mean for figures in samples], [figures.half for figures in samples]
    method = rows[0].split(", ")[1] if rows else ""
    ours = method == OURS
    axes.errorbar(
        queries,
        heights,
        errors,
        marker=MARKERS[number],
        color="crimson" if ours else f"C{(0, 1, 2, 4, 5, 7)[number]}",
        markersize=8 if ours else 6,
        linewidth=1,
        capsize=3,
        label=title(method),
        zorder=3 if ours else 2,
    )


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.maintain.front_figure", __doc__)
    parser.add_argument("recorded", type=user_path, metavar="CSV", help="a CSV of tools.summarize with the runs of table1")
    parser.add_argument("--output", type=user_path, required=True, help="image file to write")
    arguments = parser.parse_args(argv)
    require_matplotlib()
    suite = SUITES["mini"]
    found = Results.read(table1(JobFactory(suite, Config.output_dir)), recorded_runs(arguments.recorded))
    if not found.cells:
        raise UserError(f"{arguments.recorded}: has no run of table 1; give a CSV of tools.summarize")
    methods = [method for method in suite.methods if method != ZERO_SHOT]
    print(draw(found, methods, suite.backbones[0], arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
