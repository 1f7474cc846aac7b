"""What the page says of a folder of runs: means with intervals, curves with bands, and the runs that did not finish."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.common.cells import Cell, by_cell, shots_text
from tools.common.runs import FinishedRun
from tools.common.samples import sample, show, signed
from tools.report.curves import Curve, curves_svg


def sweep_page(folder: Path, runs: Sequence[FinishedRun], unfinished: Sequence[Path]) -> dict[str, Any]:
    cells, warnings = by_cell(runs)
    rows = []
    for cell, members in cells.items():
        accuracy = sample([run.result["test_accuracy"] for run in members])
        zero_shot = sample([run.result["zero_shot_accuracy"] for run in members]).mean
        seconds = sum(run.result["seconds"] for run in members) / len(members)
        queries = max(run.result["queries"] for run in members)
        name = (cell.dataset, cell.row, cell.backbone, cell.shots or "")
        rows.append(
            [*name, show(accuracy), f"{zero_shot:.2f}", signed(accuracy.mean - zero_shot), f"{queries:,}", f"{seconds:.1f}"]
        )
    heads = ["dataset", "method", "backbone", "shots", "test accuracy", "zero-shot", "gain", "queries", "seconds per run"]
    figures: list[str] = []
    for number, dataset in enumerate(dict.fromkeys(cell.dataset for cell in cells)):
        those = {cell: members for cell, members in cells.items() if cell.dataset == dataset}
        curves = [banded(name, members) for name, members in zip(labels(list(those)), those.values(), strict=True)]
        drawn = [curve for curve in curves if curve is not None]
        if drawn:
            figures.append(curves_svg(f"sweep-{number}", drawn, "queries", f"{dataset}: accuracy (%)"))
    return {
        "title": f"{len(runs)} runs in {folder}",
        "subtitle": f"{len(cells)} settings, {len(unfinished)} unfinished runs. Bands: range over seeds.",
        "table": {"heads": heads, "rows": rows},
        "figures": figures,
        "failed": [(str(path), last_line(path / "log.txt")) for path in unfinished],
        "notes": warnings,
        "wrong": [],
    }


def labels(cells: Sequence[Cell]) -> list[str]:
    """A legend's names: the method, and backbone and shots where the cells differ in them."""
    backbones, shots = {cell.backbone for cell in cells}, {cell.shots for cell in cells if cell.shots}
    return [
        ", ".join(
            [
                cell.row,
                *([cell.backbone] if len(backbones) > 1 else []),
                *([shots_text(cell.shots)] if len(shots) > 1 and cell.shots else []),
            ]
        )
        for cell in cells
    ]


def banded(label: str, runs: Sequence[FinishedRun]) -> Curve | None:
    """The mean over seeds with their range, of test accuracy where it was logged, else of validation accuracy."""
    trained = [run for run in runs if run.result["queries"]]
    if not trained:
        return None
    key = "test_accuracy" if all("test_accuracy" in run.metrics[-1] for run in trained) else "val_accuracy"
    points = [run.curve("queries", key) for run in trained]
    grid = np.unique(np.concatenate([queries for queries, _ in points]))
    values = np.array([np.interp(grid, queries, accuracies) for queries, accuracies in points])
    return Curve(label, grid.tolist(), values.mean(0).tolist(), values.min(0).tolist(), values.max(0).tolist())


def last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return lines[-1] if lines else "(no log)"
