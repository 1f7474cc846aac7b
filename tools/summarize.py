"""Gathers finished runs: one CSV of all of them, and tables of test accuracy with the paper's number beside ours.

    python -m tools.summarize outputs/ --csv runs.csv
    python -m tools.summarize outputs/ other/ --format latex --std population

A cell is the mean over seeds ± a 95 % t-interval (or, with --std population, CoOp's population standard deviation), then the
paper's figure and our difference to it. Below: cells that lack seeds, unfinished runs, runs of one cell whose settings differ.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import DATASETS
from tools.common import paper
from tools.common.runs import FinishedRun, find_runs
from tools.common.tables import SPREADS, Table, sample, show, signed
from trainers import TRAINERS
from utils.config import FIELDS, Parser
from utils.errors import UserError
from utils.identity import identity

PAPERS_SHOTS = 16


class Cell(NamedTuple):
    """What runs of different seeds have in common. `shots` is None of zero-shot, which has none."""

    backbone: str
    shots: int | None
    method: str
    variant: str
    dataset: str

    @property
    def row(self) -> str:
        return f"{self.method}, {self.variant}" if self.variant else self.method


class Grid(NamedTuple):
    """The cells of one table: methods × datasets."""

    backbone: str
    shots: int | None
    title: str
    cells: dict[Cell, list[FinishedRun]]

    @property
    def datasets(self) -> list[str]:
        there = {cell.dataset for cell in self.cells}
        return [name for name in DATASETS if name in there]

    @property
    def rows(self) -> dict[tuple[str, str], dict[str, list[FinishedRun]]]:
        """Runs by dataset, of each method and variant in the order of the registry."""
        found: dict[tuple[str, str], dict[str, list[FinishedRun]]] = {}
        order = list(TRAINERS)

        def place(item: tuple[Cell, list[FinishedRun]]) -> tuple[object, ...]:
            return (order.index(TRAINERS.canonical(item[0].method)), *item[0][3:])

        for cell, runs in sorted(self.cells.items(), key=place):
            found.setdefault((cell.method, cell.variant), {})[cell.dataset] = runs
        return found


def cell_of(run: FinishedRun) -> Cell:
    """Raises UserError for a run folder whose files lack what every run writes."""
    try:
        result = run.result
        shots = result["shots"] if seeded(result["trainer"]) else None
        for key, known in (("trainer", TRAINERS), ("dataset", DATASETS)):
            if result[key] not in known:
                raise UserError(f"{run.path / 'result.json'}: unknown {key} {result[key]!r}")
        return Cell(result["backbone"], shots, result["trainer"], run.variant, result["dataset"])
    except KeyError as error:
        raise UserError(f"{run.path / 'result.json'}: has no {error.args[0]!r}") from error


def grids(cells: dict[Cell, list[FinishedRun]]) -> Iterator[Grid]:
    """One for each backbone and number of shots, with zero-shot in all; sets that nothing trains on have their own."""
    for shifted, backbone in sorted({(is_shift(cell), cell.backbone) for cell in cells}):
        those = {cell: runs for cell, runs in cells.items() if (cell.backbone, is_shift(cell)) == (backbone, shifted)}
        for shots in dict.fromkeys(cell.shots for cell in those if cell.shots is not None) or [None]:
            title = f"{', under shift' if shifted else ''}, {backbone}{f', {shots} shots' if shots else ''}"
            members = {cell: runs for cell, runs in those.items() if cell.shots in (shots, None)}
            yield Grid(backbone, shots, f"Test accuracy (%){title}", members)


def is_shift(cell: Cell) -> bool:
    return DATASETS[cell.dataset].evaluation_only


def by_cell(runs: Iterable[FinishedRun]) -> dict[Cell, list[FinishedRun]]:
    """Runs by cell, seeds in order."""
    cells: dict[Cell, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        cells[cell_of(run)].append(run)
    in_order = sorted(cells, key=lambda cell: (cell.backbone, cell.shots or 0, *cell[2:]))
    return {cell: sorted(cells[cell], key=lambda run: run.result["seed"]) for cell in in_order}


def write_csv(runs: Sequence[FinishedRun], path: Path) -> None:
    """A row a run: all settings, then results, then where it ran. Columns that only some runs have are empty for the others."""
    rows = [csv_row(run) for run in runs]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def csv_row(run: FinishedRun) -> dict[str, Any]:
    settings = {key: run.config[key] for key in FIELDS if key in run.config}
    results = {key: value for key, value in run.result.items() if key not in settings and key != "trainer"}
    where = {"commit": run.environment.get("commit"), "torch": run.torch, "processor": run.computer, "path": str(run.path)}
    return settings | results | where


def accuracy_table(grid: Grid, spread: str) -> Table:
    """Methods × datasets, and the mean over datasets of complete rows."""
    datasets = grid.datasets
    several = len(datasets) > 1
    table = Table(grid.title, ["method", *datasets, *(["average"] if several else [])])
    for (method, variant), runs in grid.rows.items():
        found = {dataset: accuracies(members) for dataset, members in runs.items()}
        theirs = {dataset: papers(method, variant, dataset, grid.backbone, grid.shots) for dataset in datasets}
        texts = [shown(found.get(dataset), theirs[dataset], spread) for dataset in datasets]
        means = average(found, datasets)
        whole = sum(theirs.values()) / len(theirs) if None not in theirs.values() else None
        name = f"{method}, {variant}" if variant else method
        table.rows.append([name, *texts, *([shown(means, whole, spread)] if several else [])])
    what = "95 % t-interval" if spread == "interval" else "population standard deviation"
    paired = any("; paper" in text for row in table.rows for text in row)
    then = "; then the paper's figure and our difference to it" if paired else ""
    table.notes.append(f"Mean ± {what} over n seeds{then}. –: no run.")
    return table


def accuracies(runs: Sequence[FinishedRun]) -> dict[int, float]:
    """By seed."""
    return {run.result["seed"]: run.result["test_accuracy"] for run in runs}


def average(found: dict[str, dict[int, float]], datasets: Sequence[str]) -> dict[int, float] | None:
    """The mean over all datasets by seed, of seeds that all have; None where a dataset is missing."""
    if len(found) < len(datasets):
        return None
    seeds = set.intersection(*map(set, found.values()))
    return {seed: sum(one[seed] for one in found.values()) / len(found) for seed in sorted(seeds)}


def papers(method: str, variant: str, dataset: str, backbone: str, shots: int | None) -> float | None:
    """The paper's figure for a cell that is set up as the paper's is; None for variants."""
    if variant or (shots != PAPERS_SHOTS and method != "zero-shot"):
        return None
    return paper.accuracy(method, dataset, backbone)


def shown(figures: dict[int, float] | None, theirs: float | None, spread: str) -> str:
    if not figures:
        return "–"
    ours = sample(list(figures.values()))
    text = show(ours, spread)
    return text if theirs is None else f"{text}; paper {theirs:.2f}, {signed(ours.mean - theirs)}"


def missing(grid: Grid) -> list[str]:
    """Cells of a table that lack seeds which its other cells have."""
    lines = []
    seeds = sorted({run.result["seed"] for cell, runs in grid.cells.items() if seeded(cell.method) for run in runs})
    for (method, variant), runs in grid.rows.items():
        # a variant is an ablation of one dataset, no row of the grid
        for dataset in runs if variant else grid.datasets:
            there = accuracies(runs.get(dataset, ()))
            lacking = [seed for seed in seeds if seed not in there] if seeded(method) else []
            if lacking or not there:
                what = f"seeds {', '.join(map(str, lacking))}" if there else "all"
                shots = grid.shots if seeded(method) else None
                lines.append(f"missing: {told(Cell(grid.backbone, shots, method, variant, dataset))}: {what}")
    return lines


def told(cell: Cell) -> str:
    return f"{cell.dataset}, {cell.row}, {cell.backbone}" + (f", {cell.shots} shots" if cell.shots else "")


def seeded(method: str) -> bool:
    """Whether runs of other seeds differ: a saved prompt has the seed that it was trained with."""
    return method != "zero-shot"


def disagreements(cells: dict[Cell, list[FinishedRun]]) -> list[str]:
    """Cells whose runs differ in a setting other than the seed, naming it and its values.

    A run of a version that did not have a setting yet counts as one with its default.
    """
    lines = []
    defaults = identity({key: field.default for key, field in FIELDS.items()})
    for cell, runs in cells.items():
        settings = [defaults | identity(run.config) for run in runs]
        for key in dict.fromkeys(key for one in settings for key in one):
            values: dict[str, list[int]] = defaultdict(list)
            for run, one in zip(runs, settings, strict=True):
                values[repr(one.get(key))].append(run.result["seed"])
            # a saved prompt's path holds its seed
            if key not in ("seed", "load_prompt") and len(values) > 1:
                which = "; ".join(f"{value} in seed{'s' if len(seeds) > 1 else ''} {seeds}" for value, seeds in values.items())
                lines.append(f"different settings: {told(cell)}: {key}: {which}")
    return lines


def provenance(runs: Sequence[FinishedRun]) -> list[str]:
    """A line where the runs come from more than one commit, version of torch or machine."""
    lines = []
    for what, values in (
        ("commits", {run.environment.get("commit") for run in runs}),
        ("versions of torch", {run.torch for run in runs}),
        ("processors or cards", {run.computer for run in runs}),
    ):
        if len(values) > 1:
            lines.append(f"note: the runs come from {len(values)} {what}: {', '.join(sorted(map(str, values)))}")
    return lines


def main(argv: list[str] | None = None) -> int:
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = Parser(prog="python -m tools.summarize", description=__doc__, **style)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of runs, at any depth")
    parser.add_argument("--csv", type=Path, help="also write all runs, a row each with all settings")
    parser.add_argument("--format", choices=("markdown", "latex"), default="markdown")
    parser.add_argument("--std", choices=SPREADS, default="interval", help="what stands behind ±")
    try:
        arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
        runs, unfinished = find_runs(arguments.folders)
        if not runs:
            raise UserError(f"{', '.join(map(str, arguments.folders))}: no finished run (no result.json beside a config.yaml)")
        cells = by_cell(runs)
        if arguments.csv:
            write_csv(runs, arguments.csv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tables = list(grids(cells))
    for grid in tables:
        print(accuracy_table(grid, arguments.std).text(arguments.format))
    lacking = dict.fromkeys(line for grid in tables for line in missing(grid))
    remarks = [*lacking, *(f"unfinished: {path}" for path in unfinished), *disagreements(cells), *provenance(runs)]
    # beside LaTeX they would be no LaTeX
    print("\n".join(remarks), file=sys.stdout if arguments.format == "markdown" else sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
