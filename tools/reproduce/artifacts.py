"""Makes each artifact from its finished runs: a table in Markdown or LaTeX, or a picture."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tools.common import paper
from tools.common.devices import devices_of
from tools.common.names import label
from tools.common.runs import Job
from tools.common.tables import Table
from tools.reproduce import results
from tools.reproduce.claims import claims_tables
from tools.reproduce.equal import equal_tables, transfer_tables, transposed
from tools.reproduce.gains import gains_tables
from tools.reproduce.plans import OWN_BUDGET
from tools.reproduce.results import Results
from tools.reproduce.suites import OURS, SUITES, Cell, JobFactory
from tools.reproduce.times import times_table
from utils.files import write_text

if TYPE_CHECKING:
    from tools.reproduce.memory import Measurement

# The methods whose memory table 4 compares.
MEASURED = ("craft", OURS)
# shots is a table as well.
PICTURES = ("fig1", "fig2", "fig3", "fig4", "shots", "queries", "time", "curves")


def write(
    name: str,
    found: Results,
    maker: JobFactory,
    entries: Sequence[Cell],
    arguments: argparse.Namespace,
    part: Sequence[str],
) -> list[Path]:
    """The artifact's files; `part`: notes to print if it is made from a part of its runs."""
    drawn = draw(name, found, maker, entries, arguments) if name in PICTURES else []
    if drawn and name != "shots":
        print("".join(f"{line}\n" for line in part), end="")
        return drawn
    tables = make_table(name, found, maker, arguments)
    for table in tables:
        table.notes += part
    path = arguments.output / f"{name}.{'md' if arguments.format == 'markdown' else 'tex'}"
    write_text(path, "\n".join(table.text(arguments.format) for table in tables) + "\n")
    print("\n".join(table.markdown() for table in tables))
    return [*drawn, path]


def make_baselines(found: Results, maker: JobFactory, output: Path, curves: bool) -> list[Table]:
    """All methods by budget, and `curves` at their own budgets."""
    if curves:
        from tools.reproduce import figures

        heading = f"all methods at their own budgets, {maker.suite.ablation}, {maker.suite.backbone}, 16 shots"
        print(figures.draw_curves(found, OWN_BUDGET, output / "baselines.png", heading, logarithmic=True))
    return list(results.budgets_tables(found))


def make_table(name: str, found: Results, maker: JobFactory, arguments: argparse.Namespace) -> list[Table]:
    """The tables of one artifact; table 4 may still measure memory. In the paper suite the paper's numbers are added."""
    output = arguments.output
    papers = maker.suite.name == "paper"
    backbone = maker.suite.backbone
    accuracy_table = functools.partial(results.accuracy_table, losses=maker.suite.equal)
    where = f"{maker.suite.ablation}, {backbone}, 16 shots"
    by_backbone = results.papers_by_backbone(name) if papers and name in ("table1", "table2") else None
    by_method = results.papers_by_method(name) if papers and name in ("table3", "table4", "table6", "table7") else None
    if name == "baselines":
        # A CSV holds no step logs to draw.
        return make_baselines(found, maker, output, curves=arguments.recorded is None)
    if name == "equal":
        return [*equal_tables(found, "Every method at equal budgets"), *gains_tables(found)]
    if name == "parts":
        return equal_tables(found, "SharpZO without a part at equal budgets")
    if name == "dimensions":
        return [accuracy_table(found, "Test accuracy (%) by the dimension d of the search, equal budgets")]
    if name == "transfer":
        return transfer_tables(found, maker)
    if name == "table1":
        averaged = maker.suite.datasets
        # The paper averages over all of its datasets.
        whole = averaged == SUITES[maker.suite.name].datasets
        title = "Table 1: test accuracy (%), 16 shots"
        return [accuracy_table(found, title, by_backbone, averaged=averaged, whole=whole, by_backbone=True)]
    if name == "table2":
        title = f"Table 2: trained on {maker.suite.source}, tested under shift (%)"
        return [accuracy_table(found, title, by_backbone, averaged=maker.suite.shifts, by_backbone=True)]
    if name == "table3":
        return [times_table(found, by_method)]
    if name == "table4":
        return [
            accuracy_table(found, f"Table 4: test accuracy (%), {backbone}", by_method),
            memory_table(maker, arguments),
        ]
    if name == "table5":
        table5 = (lambda row, column: paper.value("table5", row, "imagenet", column)) if papers else None
        return [accuracy_table(found, "Table 5: test accuracy (%) by backbone", table5)]
    if name == "table6":
        return [accuracy_table(found, f"Table 6: pruning metric × ratio, {where} (%)", by_method, "metric")]
    if name == "table7":
        return [accuracy_table(found, f"Table 7: ρ, {where} (%)", by_method, "ρ")]
    if name == "shots":
        return results.shots_tables(found, maker.suite.datasets, maker.suite.equal)
    if name == "base2new":
        table = results.harmonic(found, maker.suite.datasets)
        return [transposed(table, "set") if len(table.columns) > 2 else table]
    if name == "cross":
        return [accuracy_table(found, f"Trained on {maker.suite.datasets[0]}, tested on all (%)")]
    if name == "fidelity":
        return [results.departures_table(found, f"Deviations of the released code, {where} (%)", maker.suite.ablation)]
    return claims_tables(found, maker)


def measurements(maker: JobFactory, arguments: argparse.Namespace) -> dict[tuple[str, str], Measurement]:
    """Memory measurements of table 4 by method and dataset, on the first device."""
    from tools.reproduce.memory import Measurement

    folder, device = arguments.output / "memory", devices_of(arguments)[0]
    pairs = [(method, dataset) for method in MEASURED for dataset in maker.suite.timed]
    return {(method, dataset): Measurement(maker.job(dataset, method), folder, device) for method, dataset in pairs}


def memory_table(maker: JobFactory, arguments: argparse.Namespace) -> Table:
    """Peak memory of the methods of table 4."""
    table = Table("Table 4: peak memory (MiB)", ["method", *maker.suite.timed])
    found = {pair: measurement.take(arguments.run) for pair, measurement in measurements(maker, arguments).items()}
    for method in MEASURED:
        cells = []
        for dataset in maker.suite.timed:
            figures = found[method, dataset]
            theirs = paper.value("table4-memory", method, dataset) if maker.suite.name == "paper" else None
            cells.append(f"{figures['mib']:.0f}" + (f"; {theirs:.1f} MB" if theirs else "") if figures else "–")
        table.rows.append([label(method), *cells])
    of = {figures["of"] for figures in found.values() if figures}
    table.notes.append(
        f"Peak over two steps of each stage, seed 1, of the {', '.join(sorted(of)) or 'process'}. –: not measured."
    )
    return table


def draw(name: str, found: Results, maker: JobFactory, entries: Sequence[Cell], arguments: argparse.Namespace) -> list[Path]:
    """The picture of one artifact."""
    from tools.reproduce import figures

    column, path = maker.suite.ablation, arguments.output / f"{name}.png"
    where = f"{column}, {maker.suite.backbone}, 16 shots"
    if name == "curves":
        return [figures.draw_panels(found, [one for one in maker.suite.curves if one in found.columns], path)]
    if name == "shots":
        return [figures.draw_shots(found, maker.suite.datasets, path)]
    if name == "fig2":
        return draw_surface([(entry.row, entry.job) for entry in entries], devices_of(arguments)[0], path)
    titles = {"fig3": "naive and sharpness-aware CMA-ES", "fig4": "stage 2: dense, magnitude, Z-pruning"}
    x = "seconds" if name == "time" else "queries"
    title = f"{titles.get(name, 'training')}, {where}"
    return [figures.draw_curves(found, column, path, title, x, logarithmic=name in ("queries", "time"))]


def draw_surface(jobs: Sequence[tuple[str, Job]], device: str, path: Path) -> list[Path]:
    from tools.reproduce import figures
    from tools.reproduce.surface import DISTANCES, surfaces

    found = surfaces(jobs, device)
    table = Table("Loss around the end of stage 1", ["stage 1", "at its end", *(f"rise at distance {r}" for r in DISTANCES)])
    for row, surface in found.items():
        rises = (f"{surface['rises'][r]:.4f}" for r in DISTANCES)
        table.rows.append([row, f"{surface['center']:.4f}", *rises])
    table.notes.append("Training loss; the rise is a mean over the same random directions for both, in both senses. One seed.")
    text = path.with_suffix(".md")
    write_text(text, table.markdown())
    return [figures.draw_surfaces(found, path), text]
