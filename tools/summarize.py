"""Summarizes finished runs: tables of test accuracy beside the paper's, a paired comparison of two methods, one CSV of all.

    python -m tools.summarize outputs --csv runs.csv
    python -m tools.summarize outputs other/runs.csv --format latex --std sample
    python -m tools.summarize outputs --compare sharpzo mezo

A cell is the mean over seeds ± a 95% t-interval (--std: or a standard deviation), then the paper's number and our difference
to it; the best of a column is bold. Below: cells with missing seeds, unfinished runs, and cells whose runs differ in a setting.
LaTeX tables need \\usepackage{booktabs}.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence

from tools.common import paper
from tools.common.cells import (
    ZERO_SHOT,
    Cell,
    Grid,
    accuracies,
    average,
    by_cell,
    grids,
    seeded,
    zero_shot_of,
)
from tools.common.cli import command, make_parser, user_path
from tools.common.comparison import comparison_table
from tools.common.names import row_title
from tools.common.run_csv import gather, write_csv
from tools.common.runs import FinishedRun
from tools.common.samples import SPREAD_NAMES, SPREADS, best, sample, show, signed
from tools.common.tables import FORMATS, Table
from utils.config import FIELDS
from utils.errors import UserError
from utils.identity import identity

PAPERS_SHOTS = 16


def accuracy_table(grid: Grid, spread: str) -> Table:
    """Methods × datasets, and the mean over datasets for complete rows. Zero-shot comes first, run or not."""
    datasets = grid.datasets
    several = len(datasets) > 1
    table = Table(grid.title, ["method", *datasets, *(["average"] if several else [])])
    means: list[list[float | None]] = []
    rows = {key: {dataset: accuracies(runs) for dataset, runs in found.items()} for key, found in grid.rows.items()}
    known = {dataset: {0: value} for dataset, value in zero_shot_of(grid).items()}
    if known:
        rows = {(ZERO_SHOT, ""): known} | {key: row for key, row in rows.items() if key != (ZERO_SHOT, "")}
    for (method, variant), found in rows.items():
        theirs = {dataset: papers(method, variant, dataset, grid.backbone, grid.shots) for dataset in datasets}
        figures = [found.get(dataset) for dataset in datasets]
        texts = [shown(one, theirs[dataset], spread) for one, dataset in zip(figures, datasets, strict=True)]
        if several:
            figures.append(average(found, datasets))
            whole = [value for value in theirs.values() if value is not None]
            texts.append(shown(figures[-1], sum(whole) / len(whole) if len(whole) == len(datasets) else None, spread))
        # Variants may be on other classes or images, so only the methods themselves compete for the best.
        means.append([sample(list(one.values())).mean if one and not variant else None for one in figures])
        table.rows.append([row_title(method, variant), *texts])
    table.bold = best(means)
    paired = any("; paper" in text for row in table.rows for text in row)
    then = "; then the paper's number and our difference to it" if paired else ""
    table.notes.append(f"Mean ± {SPREAD_NAMES[spread]} over n seeds{then}. –: no run.")
    return table


def papers(method: str, variant: str, dataset: str, backbone: str, shots: int | None) -> float | None:
    """The paper's number for a cell with the paper's settings; None for variants."""
    if variant or (shots != PAPERS_SHOTS and method != ZERO_SHOT):
        return None
    return paper.accuracy(method, dataset, backbone)


def shown(figures: dict[int, float] | None, theirs: float | None, spread: str) -> str:
    if not figures:
        return "–"
    ours = sample(list(figures.values()))
    text = show(ours, spread)
    return text if theirs is None else f"{text}; paper {theirs:.2f}, {signed(ours.mean - theirs)}"


def missing(grid: Grid) -> list[str]:
    """Cells of a table that lack seeds which its other cells have. A named run of a single seed is a one-off and lacks none."""
    lines = []
    seeds = sorted({run.result["seed"] for cell, runs in grid.cells.items() if seeded(cell.method) for run in runs})
    for (method, variant), runs in grid.rows.items():
        if not seeded(method):
            continue
        # A variant is an ablation on one dataset, not a row of the grid.
        for dataset in runs if variant else grid.datasets:
            present = accuracies(runs.get(dataset, ()))
            if variant and method != "saved" and len(present) == 1:
                continue
            lacking = [seed for seed in seeds if seed not in present]
            if lacking:
                what = f"seeds {', '.join(map(str, lacking))}" if present else "all seeds"
                lines.append(f"missing: {Cell(grid.backbone, grid.shots, method, variant, dataset)}: {what}")
    return lines


def disagreements(cells: dict[Cell, list[FinishedRun]]) -> list[str]:
    """Cells whose runs differ in a setting other than the seed, naming it and its values.

    A run of a version that did not have a setting yet counts as one with its default.
    """
    lines = []
    defaults = identity({key: field.default for key, field in FIELDS.items()})
    for cell, runs in cells.items():
        settings = [defaults | identity(run.config) | {"prompt_trainer": cell.method} for run in runs]
        for key in dict.fromkeys(key for one in settings for key in one):
            values: dict[str, list[int]] = defaultdict(list)
            for run, one in zip(runs, settings, strict=True):
                values[repr(one.get(key))].append(run.result["seed"])
            # The path of a saved prompt contains its seed.
            if key not in ("seed", "load_prompt") and len(values) > 1:
                which = "; ".join(f"{value} in seed{'s' if len(seeds) > 1 else ''} {seeds}" for value, seeds in values.items())
                lines.append(f"different settings: {cell}: {key}: {which}")
    return lines


def provenance(runs: Sequence[FinishedRun]) -> list[str]:
    """A line where the runs come from more than one commit, version of torch or machine."""
    lines = []
    for what, values in (
        ("commits", {run.environment.get("commit") for run in runs}),
        ("versions of torch", {run.torch for run in runs}),
        ("processors or GPUs", {run.computer for run in runs}),
    ):
        if len(values) > 1:
            lines.append(f"note: the runs come from {len(values)} {what}: {', '.join(sorted(map(str, values)))}")
    return lines


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.summarize", __doc__)
    parser.add_argument("sources", type=user_path, nargs="+", help="folders of runs, at any depth, or CSVs of --csv")
    parser.add_argument("--csv", type=user_path, help="also write all runs, one row each with all settings")
    parser.add_argument("--format", choices=FORMATS, default="markdown")
    parser.add_argument("--std", choices=SPREADS, default="interval", help="what follows ± (default: interval)")
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="only the paired comparison of two methods, METHOD or METHOD:RUN_NAME"
    )
    arguments = parser.parse_args(argv)
    runs, unfinished = gather(arguments.sources)
    if not runs:
        raise UserError(f"{', '.join(map(str, arguments.sources))}: no finished run (no result.json beside a config.yaml)")
    cells, warnings = by_cell(runs)
    if arguments.csv:
        write_csv(runs, arguments.csv)
    if arguments.compare:
        print(comparison_table(cells, *arguments.compare).text(arguments.format))
        return 0
    tables = list(grids(cells))
    for grid in tables:
        print(accuracy_table(grid, arguments.std).text(arguments.format))
    lacking = dict.fromkeys(line for grid in tables for line in missing(grid))
    remarks = [*warnings, *lacking, *(f"unfinished: {path}" for path in unfinished), *disagreements(cells), *provenance(runs)]
    if remarks:
        # On stdout they would not be LaTeX.
        print("\n".join(remarks), file=sys.stdout if arguments.format == "markdown" else sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
