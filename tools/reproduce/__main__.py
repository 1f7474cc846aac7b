"""Makes the paper's tables and figures, running what is missing of their runs.

    python -m tools.reproduce table1 --suite mini --processes 2
    python -m tools.reproduce fig3 fig4 claims --suite mini --output reproduced/mini
    python -m tools.reproduce table6 --root_path DATA --devices cuda:0 cuda:1 --dry-run
    python -m tools.reproduce shots --suite mini --methods zero-shot bbt zo-pruned --datasets digits
    python -m tools.reproduce table1 --suite mini --no-run          # of what is finished

Artefacts: table1 to table7, fig1 to fig4; beyond the paper baselines (all methods at equal queries and at their own), shots
(curves with zero-shot at 0), queries and time (accuracy against them), base2new, cross; fidelity (what each of the released
code's departures does), claims (which of the paper's hold).
Exit status: 0 made, 1 runs failed, 2 something given cannot work, 3 interrupted: the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tools.costs import Benchmark
from tools.reproduce import paper, results
from tools.reproduce.claims import claims_table
from tools.reproduce.figures import require_matplotlib
from tools.reproduce.plans import OWN_BUDGET, PLANS
from tools.reproduce.results import Results
from tools.reproduce.suites import OURS, SHOTS, SUITES, Entry, Maker, Suite
from tools.runs import Job
from tools.sweep import add_running_options, devices_of, print_plan, run_jobs
from tools.tables import Table
from utils.config import FIELDS, Parser
from utils.errors import RunError, UserError
from utils.files import write_text

if TYPE_CHECKING:
    from tools.reproduce.memory import Measurement

# whose memory table 4 compares
MEASURED = ("craft", OURS)
PLAN_OF = {"queries": "fig1", "time": "fig1"}
# artefacts that can be made of a part of the suite
PARTS = {
    "methods": ("table1", "table3", "table5", "fig1", "queries", "time", "shots", "base2new", "cross"),
    "datasets": ("table1", "table3", "table4", "shots", "base2new"),
}


def make_baselines(found: Results, maker: Maker, output: Path) -> list[Table]:
    """All methods by budget, and the curves of their own budgets."""
    from tools.reproduce import figures

    title = f"all methods at their own budgets, {maker.suite.ablation}, {maker.suite.backbone}, 16 shots"
    print(figures.draw_curves(found, OWN_BUDGET, output / "baselines.png", title, logarithmic=True))
    return list(results.budgets_tables(found))


def make_table(name: str, found: Results, maker: Maker, arguments: argparse.Namespace) -> list[Table]:
    """The tables of one artefact, of which table 4 may run something yet. In the paper's suite its figures stand beside."""
    output = arguments.output
    papers = maker.suite.name == "paper"
    backbone = maker.suite.backbone
    where = f"{maker.suite.ablation}, {backbone}, 16 shots"
    by_backbone = results.papers_by_backbone(name) if papers and name in ("table1", "table2") else None
    by_method = results.papers_by_method(name) if papers and name in ("table3", "table4", "table6", "table7") else None
    if name == "baselines":
        return make_baselines(found, maker, output)
    if name == "table1":
        averaged = maker.suite.datasets
        # the paper's averages are over all of them
        whole = averaged == SUITES[maker.suite.name].datasets
        return [
            results.accuracy_table(found, "Table 1: test accuracy (%), 16 shots", by_backbone, averaged=averaged, whole=whole)
        ]
    if name == "table2":
        title = f"Table 2: trained on {maker.suite.source}, tested under shift (%)"
        return [results.accuracy_table(found, title, by_backbone, averaged=maker.suite.shifts)]
    if name == "table3":
        return [results.times_table(found, by_method)]
    if name == "table4":
        return [
            results.accuracy_table(found, f"Table 4: test accuracy (%), {backbone}", by_method),
            memory_table(maker, arguments),
        ]
    if name == "table5":
        table5 = (lambda row, column: paper.value("table5", row, "imagenet", column)) if papers else None
        return [results.accuracy_table(found, "Table 5: test accuracy (%) by backbone", table5)]
    if name == "table6":
        return [results.accuracy_table(found, f"Table 6: pruning metric × ratio, {where} (%)", by_method, "metric")]
    if name == "table7":
        return [results.accuracy_table(found, f"Table 7: ρ, {where} (%)", by_method, "ρ")]
    if name == "base2new":
        return [results.harmonic(found, maker.suite.datasets)]
    if name == "cross":
        return [results.accuracy_table(found, f"Trained on {maker.suite.datasets[0]}, tested on all (%)")]
    if name == "fidelity":
        return [results.departures_table(found, f"Departures of the released code, {where} (%)", maker.suite.ablation)]
    return [claims_table(found, maker)]


def measurements(maker: Maker, arguments: argparse.Namespace) -> dict[str, dict[str, Measurement]]:
    """Of table 4's memory, by method and dataset: on the first device."""
    from tools.reproduce.memory import Measurement

    folder, device = arguments.output / "memory", devices_of(arguments)[0]
    return {
        method: {dataset: Measurement(maker.job(dataset, method), folder, device) for dataset in maker.suite.timed}
        for method in MEASURED
    }


def memory_table(maker: Maker, arguments: argparse.Namespace) -> Table:
    """Peak memory of the methods of table 4."""
    table = Table("Table 4: peak memory (MiB)", ["method", *maker.suite.timed])
    of = set()
    for method, by_dataset in measurements(maker, arguments).items():
        cells = []
        for dataset, measurement in by_dataset.items():
            figures = measurement.take(arguments.run)
            if figures is None:
                cells.append("–")
                continue
            theirs = paper.value("table4-memory", method, dataset) if maker.suite.name == "paper" else None
            cells.append(f"{figures['mib']:.0f}" + (f"; {theirs:.1f} MB" if theirs else ""))
            of.add(figures["of"])
        table.rows.append([method, *cells])
    table.notes.append(
        f"Largest over two steps of each stage, seed 1; of the {', '.join(sorted(of)) or 'process'}. –: not measured."
    )
    return table


def draw(name: str, found: Results, maker: Maker, entries: Sequence[Entry], arguments: argparse.Namespace) -> list[Path]:
    """The picture of one artefact."""
    from tools.reproduce import figures

    column, path = maker.suite.ablation, arguments.output / f"{name}.png"
    where = f"{column}, {maker.suite.backbone}, 16 shots"
    if name == "shots":
        return [figures.draw_shots(found, maker.suite.datasets, SHOTS, "zero-shot", path)]
    if name == "fig2":
        return draw_surface([(entry.row, entry.job) for entry in entries], devices_of(arguments)[0], path)
    titles = {"fig3": "naive and sharpness-aware CMA-ES", "fig4": "stage 2: dense, magnitude, Z-pruning"}
    x = "seconds" if name == "time" else "queries"
    title = f"{titles.get(name, 'training')}, {where}"
    return [figures.draw_curves(found, column, path, title, x, logarithmic=name == "queries")]


def draw_surface(jobs: Sequence[tuple[str, Job]], device: str, path: Path) -> list[Path]:
    from tools.reproduce import figures
    from tools.reproduce.surface import DISTANCES, surfaces

    found = surfaces(jobs, device)
    table = Table("Loss around the end of stage 1", ["stage 1", "at its end", *(f"rise at distance {r}" for r in DISTANCES)])
    for row, surface in found.items():
        rises = (f"{surface['rises'][r]:.4f}" for r in DISTANCES)
        table.rows.append([row, f"{surface['centre']:.4f}", *rises])
    table.notes.append("Training loss; the rise is a mean over random directions, both ways, the same for both. One seed.")
    text = path.with_suffix(".md")
    write_text(text, table.markdown())
    return [figures.draw_surfaces(found, path), text]


PICTURES = ("fig1", "fig2", "fig3", "fig4", "shots", "queries", "time")
DRAWN = (*PICTURES, "baselines")
ARTEFACTS = (*PLANS, *PLAN_OF)


def reproduce(name: str, arguments: argparse.Namespace, maker: Maker) -> int:
    """Plans, runs and makes one artefact; the exit status of its runs."""
    entries = list(PLANS[PLAN_OF.get(name, name)](maker))
    jobs = unique(entry.job for entry in entries)
    devices = devices_of(arguments)
    print(f"{name}, {maker.suite.name} suite:")
    for method in [method for method in maker.suite.methods if method not in maker.methods()]:
        print(f"{method}: no trainer of this version; left out")
    if arguments.dry_run:
        benchmark = Benchmark.read(arguments.benchmark) if arguments.benchmark else None
        print_plan(jobs, benchmark, len(devices))
        if name == "table4":
            for measurement in [one for by_dataset in measurements(maker, arguments).values() for one in by_dataset.values()]:
                state = "finished" if measurement.output.is_file() else "missing"
                print(f"{state:11} {'memory':>18}  {'':8}  python {shlex.join(measurement.command[1:])}")
        return 0
    status = 0
    for phase in sorted({entry.phase for entry in entries}) if arguments.run else ():
        status = max(status, run_jobs(unique(entry.job for entry in entries if entry.phase == phase), devices))
        if status == 3:
            return status
    found = Results.read(entries)
    if not found.cells:
        raise UserError(f"{name}: none of its {len(jobs)} runs is finished in {maker.output_dir}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    lacking = len(jobs) - sum(job.state == "finished" for job in jobs)
    if lacking:
        print(f"{name}: made without {lacking} of {len(jobs)} runs; --dry-run lists them")
    for path in write(name, found, maker, entries, arguments):
        print(path)
    return status


def write(name: str, found: Results, maker: Maker, entries: Sequence[Entry], arguments: argparse.Namespace) -> list[Path]:
    if name in PICTURES:
        return draw(name, found, maker, entries, arguments)
    tables = make_table(name, found, maker, arguments)
    path = arguments.output / f"{name}.{'md' if arguments.format == 'markdown' else 'tex'}"
    write_text(path, "\n".join(table.text(arguments.format) for table in tables) + "\n")
    print("\n".join(table.markdown() for table in tables))
    return [path]


def unique(jobs: Sequence[Job]) -> list[Job]:
    """Each run folder once."""
    return list({job.path: job for job in jobs}.values())


def parse(argv: list[str]) -> argparse.Namespace:
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = Parser(prog="python -m tools.reproduce", description=__doc__, **style)
    parser.add_argument("artefacts", nargs="+", metavar="ARTEFACT", help=", ".join(ARTEFACTS))
    parser.add_argument("--suite", choices=list(SUITES), default="paper")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="default: the suite's")
    parser.add_argument("--methods", nargs="+", default=[], help="only these of the suite's methods")
    parser.add_argument("--datasets", nargs="+", default=[], help="only these of the suite's datasets")
    parser.add_argument("--output", type=Path, help="folder of the tables and figures; default: reproduced/SUITE")
    parser.add_argument("--output_dir", default=FIELDS["output_dir"].default, help="root of the run folders")
    parser.add_argument("--format", choices=("markdown", "latex"), default="markdown")
    parser.add_argument("--run", action=argparse.BooleanOptionalAction, default=True, help="run what is missing")
    add_running_options(parser)
    arguments = parser.parse_args(argv)
    for name in arguments.artefacts:
        if name not in ARTEFACTS:
            raise UserError(f"unknown artefact {name!r}; there are {', '.join(ARTEFACTS)}")
    if len(set(arguments.seeds)) < len(arguments.seeds):
        raise UserError(f"--seeds: {' '.join(map(str, arguments.seeds))}: a seed stands twice; give each once")
    if not arguments.dry_run and any(name in DRAWN for name in arguments.artefacts):
        require_matplotlib()
    arguments.output = arguments.output or Path("reproduced") / arguments.suite
    return arguments


def suite_of(arguments: argparse.Namespace) -> Suite:
    """The suite, or the part of it that was asked for. Raises UserError for what it does not have."""
    suite = SUITES[arguments.suite]
    for axis in ("methods", "datasets"):
        chosen, there = getattr(arguments, axis), getattr(suite, axis)
        for name in chosen:
            if name not in there:
                raise UserError(f"--{axis}: the {suite.name} suite has no {name!r}; it has {', '.join(there)}")
        for name in arguments.artefacts:
            if chosen and name not in PARTS[axis]:
                raise UserError(f"--{axis}: {name} is made of the whole suite; parts can be made of {', '.join(PARTS[axis])}")
        if chosen:
            suite = dataclasses.replace(suite, **{axis: tuple(name for name in there if name in chosen)})
    return dataclasses.replace(suite, timed=tuple(name for name in suite.timed if name in suite.datasets))


def main(argv: list[str] | None = None) -> int:
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        maker = Maker(suite_of(arguments), arguments.output_dir, arguments.root_path, tuple(arguments.seeds))
        status = 0
        for name in arguments.artefacts:
            status = max(status, attempt(name, arguments, maker))
            if status == 3:
                break
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def attempt(name: str, arguments: argparse.Namespace, maker: Maker) -> int:
    """The exit status of one artefact; what it cannot be made of is said, and stops no other."""
    try:
        return reproduce(name, arguments, maker)
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


if __name__ == "__main__":
    sys.exit(main())
