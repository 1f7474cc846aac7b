"""Finished runs grouped into the cells of accuracy tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from datasets import DATASETS
from tools.common.names import canonical, row_title
from tools.common.runs import FinishedRun
from trainers import TRAINERS
from utils.errors import UserError

ZERO_SHOT = "zero-shot"


class Cell(NamedTuple):
    """What runs with different seeds have in common. `shots` is None for zero-shot, which uses none."""

    backbone: str
    shots: int | None
    method: str
    variant: str
    dataset: str

    @property
    def row(self) -> str:
        return row_title(self.method, self.variant)

    def __str__(self) -> str:
        return f"{self.dataset}, {self.row}, {self.backbone}" + (f", {shots_text(self.shots)}" if self.shots else "")


class Grid(NamedTuple):
    """The cells of one table: methods × datasets."""

    backbone: str
    shots: int | None
    title: str
    cells: dict[Cell, list[FinishedRun]]

    @property
    def datasets(self) -> list[str]:
        present = {cell.dataset for cell in self.cells}
        return [*(name for name in DATASETS if name in present), *sorted(present - DATASETS.keys())]

    @property
    def rows(self) -> dict[tuple[str, str], dict[str, list[FinishedRun]]]:
        """Runs by dataset for each (method, variant), in the order of the registry, zero-shot first."""
        found: dict[tuple[str, str], dict[str, list[FinishedRun]]] = {}
        order = [ZERO_SHOT, *(name for name in TRAINERS if name != ZERO_SHOT)]
        for cell in sorted(self.cells, key=lambda cell: (order.index(TRAINERS.canonical(cell.method)), *cell[3:])):
            found.setdefault((cell.method, cell.variant), {})[cell.dataset] = self.cells[cell]
        return found


def cell_of(run: FinishedRun) -> Cell:
    """Raises UserError for a folder that lacks what every run writes, and for an unknown trainer or dataset."""
    try:
        result = run.result
        method = canonical(result["trainer"])
        if method not in TRAINERS:
            raise UserError(f"{run.path}: skipped: unknown trainer {method!r}")
        if result["dataset"] not in DATASETS:
            raise UserError(f"{run.path}: skipped: unknown dataset {result['dataset']!r}")
        shots = result["shots"] if seeded(method) else None
        return Cell(result["backbone"], shots, method, run.variant, result.get("dataset_name") or result["dataset"])
    except KeyError as error:
        raise UserError(f"{run.path}: skipped: result.json has no {error.args[0]!r}") from error


def by_cell(runs: Iterable[FinishedRun]) -> tuple[dict[Cell, list[FinishedRun]], list[str]]:
    """Runs by cell, seeds in order, and a warning for each run that belongs in no cell."""
    cells: dict[Cell, list[FinishedRun]] = defaultdict(list)
    warnings = []
    for run in runs:
        try:
            cells[cell_of(run)].append(run)
        except UserError as error:
            warnings.append(f"warning: {error}")
    in_order = sorted(cells, key=lambda cell: (cell.backbone, cell.shots or 0, *cell[2:]))
    return {cell: sorted(cells[cell], key=lambda run: run.result["seed"]) for cell in in_order}, warnings


def grids(cells: dict[Cell, list[FinishedRun]]) -> Iterator[Grid]:
    """A table for each backbone and number of shots, with zero-shot in all; evaluation-only datasets have their own."""
    for shifted, backbone in sorted({(is_shift(cell), cell.backbone) for cell in cells}):
        those = {cell: runs for cell, runs in cells.items() if (cell.backbone, is_shift(cell)) == (backbone, shifted)}
        for shots in dict.fromkeys(cell.shots for cell in those if cell.shots is not None) or [None]:
            title = f"{', under shift' if shifted else ''}, {backbone}{f', {shots_text(shots)}' if shots else ''}"
            members = {cell: runs for cell, runs in those.items() if cell.shots in (shots, None)}
            yield Grid(backbone, shots, f"Test accuracy (%){title}", members)


def shots_text(shots: int) -> str:
    return f"{shots} shot{'s' if shots > 1 else ''}"


def is_shift(cell: Cell) -> bool:
    return cell.dataset in DATASETS and DATASETS[cell.dataset].evaluation_only


def seeded(method: str) -> bool:
    """Whether runs with different seeds differ: a saved prompt has the seed that it was trained with."""
    return method != ZERO_SHOT


def accuracies(runs: Sequence[FinishedRun]) -> dict[int, float]:
    """Test accuracy in percent by seed."""
    return {run.result["seed"]: run.result["test_accuracy"] for run in runs}


def average(found: dict[str, dict[int, float]], datasets: Sequence[str]) -> dict[int, float] | None:
    """The mean over all datasets by seed, for seeds that all have; None if a dataset is missing."""
    if len(found) < len(datasets):
        return None
    seeds = set.intersection(*map(set, found.values()))
    return {seed: sum(one[seed] for one in found.values()) / len(found) for seed in sorted(seeds)}


def zero_shot_of(grid: Grid) -> dict[str, float]:
    """Zero-shot accuracy by dataset: of zero-shot runs, or as the other runs of the table recorded it, where they agree."""
    found: dict[str, set[float]] = defaultdict(set)
    measured: dict[str, set[float]] = defaultdict(set)
    for cell, runs in grid.cells.items():
        for run in runs:
            if cell.method == ZERO_SHOT and not cell.variant:
                measured[cell.dataset].add(run.result["test_accuracy"])
            elif not cell.variant and "zero_shot_accuracy" in run.result:
                found[cell.dataset].add(run.result["zero_shot_accuracy"])
    merged = dict(found) | measured
    return {dataset: next(iter(values)) for dataset, values in merged.items() if len(values) == 1}
