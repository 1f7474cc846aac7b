"""Finished runs by their place in a table, and the tables made of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.common import paper
from tools.common.names import canonical, label
from tools.common.run_csv import read_csv
from tools.common.runs import FinishedRun, Job, read_run
from tools.common.samples import Sample, best, difference, grouped, sample, show, show_difference
from tools.common.tables import Table
from tools.reproduce.plans import DENSE, PAPERS_READING
from tools.reproduce.suites import SHOTS, Cell

ACCURACY, LOSSES = "test_accuracy", ("train_loss", "test_loss")
HALVES = ("base", "new")
INTERVAL = "Mean ± 95% t-interval over n seeds. –: not run."
PAPERS = f"{INTERVAL} After the semicolon: the paper's number."


@dataclass
class Results:
    """Runs of a plan that are finished, in seed order, by (row, column); `rows` and `columns` in the plan's order."""

    cells: Mapping[tuple[str, str], list[FinishedRun]]
    rows: Sequence[str]
    columns: Sequence[str]

    @classmethod
    def read(cls, entries: Iterable[Cell], recorded: Mapping[Path, FinishedRun] | None = None) -> Results:
        """Of finished run folders, or of the `recorded` runs by folder (see `recorded_runs`)."""
        cells: dict[tuple[str, str], list[FinishedRun]] = defaultdict(list)
        entries = list(entries)
        for entry in entries:
            run = finished_run(entry.job, recorded)
            if run:
                cells[entry.row, entry.column].append(run)
        for runs in cells.values():
            runs.sort(key=lambda run: run.result["seed"])
        order = [list(dict.fromkeys(getattr(entry, axis) for entry in entries)) for axis in ("row", "column")]
        return cls(cells, *order)

    def values(self, row: str, *columns: str, key: str = ACCURACY) -> dict[int, float]:
        """A number of result.json by seed; for several columns their mean, over the seeds that all of them have.

        Runs that lack it, such as those of earlier versions, are left out.
        """
        found = [
            {run.result["seed"]: run.result[key] for run in self.cells.get((row, column), ()) if key in run.result}
            for column in columns
        ]
        seeds = sorted(set.intersection(*map(set, found)))
        return {seed: sum(numbers[seed] for numbers in found) / len(found) for seed in seeds}

    def sample(self, row: str, column: str, key: str = ACCURACY) -> Sample | None:
        values = self.values(row, column, key=key)
        return sample(list(values.values())) if values else None

    def paired(self, columns: Sequence[str], a: str, b: str, b_columns: Sequence[str] = (), key: str = ACCURACY) -> Sample | None:
        """a − b over the seeds that both have; against zero-shot, which has no seeds, over those of a. None below two seeds.

        With several columns, their means are compared.
        """
        first, second = self.values(a, *columns, key=key), self.values(b, *(b_columns or columns), key=key)
        rivals = [run for column in b_columns or columns for run in self.cells.get((b, column), ())]
        if second and all(run.result["trainer"] == "zero-shot" for run in rivals):
            second = dict.fromkeys(first, next(iter(second.values())))
        seeds = sorted(first.keys() & second.keys())
        return difference([first[s] for s in seeds], [second[s] for s in seeds]) if len(seeds) > 1 else None


def departures_table(results: Results, title: str, dataset: str) -> Table:
    """Accuracy of each deviation, and its difference from what it deviates from: the paper's reading, dense or not."""
    table = Table(
        title,
        ["deviation", "test accuracy, %", "difference, points", "from"],
        notes=[INTERVAL + " Differences are paired by seed."],
    )
    for row in results.rows:
        base = DENSE if "dense" in row and row != DENSE else PAPERS_READING
        figures = results.sample(row, dataset)
        apart = results.paired((dataset,), row, base) if row != base else None
        table.rows.append(
            [label(row), show(figures) if figures else "–", show_difference(apart) if apart else "–", base if apart else ""]
        )
    return table


def finished_run(job: Job, recorded: Mapping[Path, FinishedRun] | None) -> FinishedRun | None:
    if recorded is not None:
        return recorded.get(job.path)
    return read_run(job.path) if job.state == "finished" else None


def recorded_runs(path: Path) -> dict[Path, FinishedRun]:
    """The runs of a CSV of tools.summarize by folder, with the present names of trainers."""
    return {Path(*map(_present, run.path.parts)): run for run in read_csv(path)}


def _present(part: str) -> str:
    """A folder name of an earlier version as it is called now: "zo-pruned" and "zo-pruned-from-digits"."""
    method, separator, rest = part.partition("-from-")
    return canonical(method) + separator + rest


Paper = Callable[[str, str], float | None]


def accuracy_table(
    results: Results,
    title: str,
    papers: Paper | None = None,
    head: str = "method",
    averaged: Sequence[str] = (),
    whole: bool = True,
    by_backbone: bool = False,
    losses: bool = False,
) -> Table:
    """Rows × columns of test accuracy. `averaged`: the columns whose mean by seed is a last column, over seeds that all have.

    `whole`: they are those of the paper's average. `by_backbone`: rows start with the backbone, which has its own best.
    `losses`: with the mean training and test cross-entropy in each cell.
    """
    table = Table(title, [head, *results.columns, *(["average"] if averaged else [])], notes=[PAPERS if papers else INTERVAL])
    if losses:
        table.notes.append("In parentheses: mean cross-entropy on the training and the test images.")
    means: dict[str, list[tuple[int, list[float | None]]]] = defaultdict(list)
    for row in results.rows:
        samples = {column: results.sample(row, column) for column in results.columns}
        texts = [
            cell(figures, papers(row, column) if papers else None) + (entropies(results, row, column) if losses else "")
            for column, figures in samples.items()
        ]
        shown = list(samples.values())
        if averaged:
            values = list(results.values(row, *averaged).values())
            shown.append(sample(values) if values else None)
            texts.append(cell(shown[-1], papers(row, "average") if papers and whole else None))
        if any(samples.values()) or (papers and any(papers(row, column) is not None for column in results.columns)):
            group = row.partition(", ")[0] if by_backbone else ""
            means[group].append((len(table.rows), [figures.mean if figures else None for figures in shown]))
            table.rows.append([label(row), *texts])
    for members in means.values():
        table.bold |= {(members[i][0], column) for i, column in best([row for _, row in members])}
    return table


def entropies(results: Results, row: str, column: str) -> str:
    """ " (1.31, 1.58)": the mean cross-entropies on training and test images; "" unless each of the runs has one."""
    runs = len(results.values(row, column))
    samples = (results.sample(row, column, key) for key in LOSSES)
    found = [one if one and one.n == runs else None for one in samples]
    return f" ({', '.join(f'{one.mean:.2f}' if one else '–' for one in found)})" if any(found) else ""


def cell(figures: Sample | None, theirs: float | None) -> str:
    ours = "–" if figures is None else show(figures)
    return ours if theirs is None else f"{ours}; {theirs:.2f}"


def papers_by_backbone(table: str) -> Paper:
    """The paper's figures for rows "BACKBONE, METHOD"."""

    def find(row: str, column: str) -> float | None:
        backbone, _, method = row.partition(", ")
        return paper.value(table, method, column, backbone)

    return find


def papers_by_method(table: str) -> Paper:
    return lambda row, column: paper.value(table, row, column)


def budgets_tables(results: Results) -> Iterator[Table]:
    """A table per column (a budget): accuracy, queries and seconds of each method, the most accurate first."""
    for column in results.columns:
        head = ["method", "test accuracy, %", "lowest", "highest", "queries", "images encoded", "seconds"]
        table = Table(f"All methods, {column}", head, notes=[INTERVAL])
        rows = [(row, results.cells[row, column]) for row in results.rows if (row, column) in results.cells]
        for row, runs in sorted(rows, key=lambda item: -mean_of(item[1], "test_accuracy")):
            accuracies = [run.result["test_accuracy"] for run in runs]
            counts = (grouped(mean_of(runs, key)) for key in ("queries", "tower_images"))
            ends = (f"{end(accuracies):.2f}" for end in (min, max))
            table.rows.append([label(row), show(sample(accuracies)), *ends, *counts, f"{mean_of(runs, 'seconds'):.0f}"])
        table.notes.append(made_on(run for _, runs in rows for run in runs))
        yield table


def mean_of(runs: Sequence[FinishedRun], key: str) -> float:
    """Mean of a number in result.json."""
    return sum(float(run.result[key]) for run in runs) / len(runs)


def made_on(runs: Iterable[FinishedRun]) -> str:
    """The machines of runs whose seconds are shown."""
    machines = sorted({f"{run.computer}, torch {run.torch}, {run.config.get('threads')} CPU threads" for run in runs})
    return f"Machine: {'; '.join(machines)}." + (
        "" if len(machines) == 1 else " **Times on different machines are not comparable.**"
    )


def harmonic(results: Results, datasets: Sequence[str]) -> Table:
    """Base-to-new: accuracy on the training classes, on the other classes, and their harmonic mean by seed.

    A column per dataset that was run; where there are several, one of their mean, with the harmonic mean of its two halves.
    """
    run = [one for one in datasets if any((row, f"{one}, {half}") in results.cells for row in results.rows for half in HALVES)]
    columns = {one: [one] for one in run}
    if len(run) > 1:
        columns[f"mean of {len(run)} sets"] = run
    table = Table("Base-to-new generalization, test accuracy (%): base; new; H", ["method", *columns], notes=[INTERVAL])
    table.notes.append("H: harmonic mean of base and new, by seed.")
    for row in results.rows:
        texts = []
        for sets in columns.values():
            base, new = (results.values(row, *(f"{one}, {half}" for one in sets)) for half in HALVES)
            seeds = sorted(base.keys() & new.keys())
            if not seeds:
                texts.append("–")
                continue
            H = [2 * base[s] * new[s] / (base[s] + new[s]) if base[s] + new[s] else 0.0 for s in seeds]
            n = f" (n = {len(seeds)})"
            shown = (show(sample(values)).removesuffix(n) for values in ([base[s] for s in seeds], [new[s] for s in seeds], H))
            texts.append("; ".join(shown) + n)
        if set(texts) != {"–"}:
            table.rows.append([label(row), *texts])
    return table


def shots_run(results: Results, datasets: Sequence[str]) -> list[str]:
    """The datasets where methods were trained on different numbers of images per class."""
    there = {column for row, column in results.cells if row != "zero-shot"}
    return [one for one in datasets if len(there & {f"{one}, {count}" for count in SHOTS}) > 1]


def shots_tables(results: Results, datasets: Sequence[str], losses: bool) -> list[Table]:
    """A table per dataset that was run: accuracy by method and number of training images per class."""
    tables = []
    for dataset in shots_run(results, datasets):
        columns = {f"{dataset}, {count}": f"{count} per class" for count in SHOTS if f"{dataset}, {count}" in results.columns}
        trained = [row for row in results.rows if row != "zero-shot"]
        part = Results(results.cells, trained, list(columns))
        table = accuracy_table(part, f"{dataset}: test accuracy (%) by training images", losses=losses)
        table.columns = [table.columns[0], *columns.values()]
        zero = results.sample("zero-shot", f"{dataset}, {SHOTS[-1]}")
        if zero:
            table.notes.append(f"Zero-shot: {zero.mean:.2f}.")
        tables.append(table)
    return tables


def stage1_end(run: FinishedRun) -> float:
    """Test accuracy at the last logged step of stage 1."""
    return float([entry["test_accuracy"] for entry in run.metrics if entry["stage"] == 1 and "test_accuracy" in entry][-1])
