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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import DATASETS
from tools.reproduce import paper
from tools.runs import FinishedRun, find_runs
from tools.tables import SPREADS, Sample, Table, sample, show
from trainers import TRAINERS
from utils.config import FIELDS, Parser
from utils.errors import UserError
from utils.run import identity

PAPERS_SHOTS = 16


class Cell(NamedTuple):
    """What runs of different seeds have in common."""

    backbone: str
    shots: int
    method: str
    variant: str
    dataset: str

    @property
    def row(self) -> str:
        return f"{self.method}, {self.variant}" if self.variant else self.method


def cell_of(run: FinishedRun) -> Cell:
    """Raises UserError for a run folder whose files lack what every run writes."""
    try:
        result = run.result
        return Cell(result["backbone"], result["shots"], result["trainer"], run.variant, result["dataset"])
    except KeyError as error:
        raise UserError(f"{run.path / 'result.json'}: has no {error.args[0]!r}") from error


def by_cell(runs: Iterable[FinishedRun]) -> dict[Cell, list[FinishedRun]]:
    """Runs by cell, seeds in order."""
    cells: dict[Cell, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        cells[cell_of(run)].append(run)
    return {cell: sorted(members, key=lambda run: run.result["seed"]) for cell, members in sorted(cells.items())}


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
    environment = run.environment
    machine = environment.get("machine", {})
    where = {
        "commit": environment.get("commit"),
        "torch": environment.get("packages", {}).get("torch"),
        "processor": machine.get("processor"),
        "path": str(run.path),
    }
    return settings | results | where


def accuracy_tables(cells: dict[Cell, list[FinishedRun]], spread: str) -> list[Table]:
    """One table for each backbone and number of shots: methods × datasets, and the mean over datasets of complete rows."""
    tables = []
    for backbone, shots in dict.fromkeys((cell.backbone, cell.shots) for cell in cells):
        members = {cell: runs for cell, runs in cells.items() if (cell.backbone, cell.shots) == (backbone, shots)}
        datasets = [name for name in DATASETS if any(cell.dataset == name for cell in members)]
        several = len(datasets) > 1
        columns = ["method", *datasets, *(["average"] if several else [])]
        table = Table(f"Test accuracy (%), {backbone}, {shots} shots", columns)
        order = list(TRAINERS)
        rows = dict.fromkeys((cell.method, cell.variant, cell.row) for cell in members)
        for method, variant, name in sorted(rows, key=lambda row: (order.index(row[0]) if row[0] in order else 99, row[1])):
            found = {
                d: sample(accuracies(members[c])) for d in datasets if (c := Cell(backbone, shots, method, variant, d)) in members
            }
            theirs = {d: papers(method, variant, d, backbone, shots) for d in datasets}
            texts = [shown(found.get(d), theirs[d], spread) for d in datasets]
            table.rows.append([name, *texts, *([average(found, theirs, datasets)] if several else [])])
        what = "95 % t-interval" if spread == "interval" else "population standard deviation"
        table.notes.append(f"Mean ± {what} over n seeds; then the paper's figure and our difference to it. –: no run.")
        tables.append(table)
    return tables


def accuracies(runs: Sequence[FinishedRun]) -> list[float]:
    return [run.result["test_accuracy"] for run in runs]


def papers(method: str, variant: str, dataset: str, backbone: str, shots: int) -> float | None:
    """The paper's figure for a cell that is set up as the paper's is; None for variants."""
    if variant or (shots != PAPERS_SHOTS and method != "zero-shot"):
        return None
    return paper.accuracy(method, dataset, backbone)


def shown(figures: Sample | None, theirs: float | None, spread: str) -> str:
    if figures is None:
        return "–"
    text = show(figures, spread)
    return text if theirs is None else f"{text}; paper {theirs:.2f}, {signed(figures.mean - theirs)}"


def signed(number: float) -> str:
    return f"{'−' if round(number, 2) < 0 else '+'}{abs(number):.2f}"


def average(found: dict[str, Sample], theirs: dict[str, float | None], datasets: Sequence[str]) -> str:
    """The mean over datasets where none is missing; the paper's over the same ones."""
    if len(found) < len(datasets):
        return "–"
    mean = sum(figures.mean for figures in found.values()) / len(found)
    if any(number is None for number in theirs.values()):
        return f"{mean:.2f}"
    paper_mean = sum(theirs.values()) / len(theirs)
    return f"{mean:.2f}; paper {paper_mean:.2f}, {signed(mean - paper_mean)}"


def missing(cells: dict[Cell, list[FinishedRun]]) -> list[str]:
    """Cells of each table's grid that lack seeds which its other cells have."""
    lines = []
    for backbone, shots in dict.fromkeys((cell.backbone, cell.shots) for cell in cells):
        members = {cell: runs for cell, runs in cells.items() if (cell.backbone, cell.shots) == (backbone, shots)}
        seeds = sorted({run.result["seed"] for cell, runs in members.items() if seeded(cell.method) for run in runs})
        datasets = [name for name in DATASETS if any(cell.dataset == name for cell in members)]
        for method, variant in dict.fromkeys((cell.method, cell.variant) for cell in members):
            # a variant is an ablation of one dataset, no row of the grid
            wanted = (
                datasets
                if not variant
                else [cell.dataset for cell in members if (cell.method, cell.variant) == (method, variant)]
            )
            for dataset in wanted:
                cell = Cell(backbone, shots, method, variant, dataset)
                there = {run.result["seed"] for run in members.get(cell, ())}
                lacking = [seed for seed in seeds if seed not in there] if seeded(method) else []
                if lacking or not there:
                    what = f"seeds {', '.join(map(str, lacking))}" if there else "all"
                    lines.append(f"missing: {dataset}, {cell.row}, {backbone}, {shots} shots: {what}")
    return lines


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
                told = "; ".join(f"{value} in seed{'s' if len(seeds) > 1 else ''} {seeds}" for value, seeds in values.items())
                lines.append(
                    f"different settings: {cell.dataset}, {cell.row}, {cell.backbone}, {cell.shots} shots: {key}: {told}"
                )
    return lines


def provenance(runs: Sequence[FinishedRun]) -> list[str]:
    """A line where the runs come from more than one commit or version of torch."""
    lines = []
    for what, values in (
        ("commits", {run.environment.get("commit") for run in runs}),
        ("versions of torch", {run.environment.get("packages", {}).get("torch") for run in runs}),
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
    for table in accuracy_tables(cells, arguments.std):
        print(table.text(arguments.format))
    remarks = [*missing(cells), *(f"unfinished: {path}" for path in unfinished), *disagreements(cells), *provenance(runs)]
    # beside LaTeX they would be no LaTeX
    print("\n".join(remarks), file=sys.stdout if arguments.format == "markdown" else sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
