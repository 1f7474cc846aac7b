"""Table 3: the time that methods take to a common accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from tools.common.names import label
from tools.common.runs import FinishedRun
from tools.common.samples import grouped, sample, show
from tools.common.tables import Table
from tools.reproduce.results import INTERVAL, Paper, Results, made_on, mean_of
from utils.errors import UserError


def times_table(results: Results, papers: Paper | None = None) -> Table:
    """Table 3: seconds and queries to the highest test accuracy that every run of every method reaches, by dataset.

    `papers`: minutes.
    """
    table = Table("Time to a common test accuracy", ["method", *results.columns])
    levels = {column: common_level(results, column) for column in results.columns}
    for row in results.rows:
        texts = []
        for column in results.columns:
            runs = results.cells.get((row, column))
            if not runs:
                texts.append("–")
                continue
            level = levels[column]
            if level is None:
                raise UserError(f"{column}: no run logged test accuracy; run it with --eval_test")
            reached = [first_reaching(run, level) for run in runs]
            seconds, queries = (sample([figures[i] for figures in reached]) for i in (0, 1))
            stages = stage_seconds(runs)
            theirs = papers(row, column) if papers else None
            minutes = "" if theirs is None else f"; paper {theirs:g} min"
            texts.append(f"{show(seconds, digits=1)} s; {grouped(queries.mean)} queries; whole run: {stages}{minutes}")
        table.rows.append([label(row), *texts])
    named = ", ".join(f"{column} {level:.2f}%" for column, level in levels.items() if level is not None)
    table.notes += [
        f"The common accuracy is the highest that all of these runs reach at a logged step: {named}. "
        "The paper's thresholds are unpublished.",
        "Seconds cover the method's own steps, without evaluations. Features: encoding the images once beforehand, or reading "
        f"their features from the cache. {INTERVAL}",
        made_on(run for runs in results.cells.values() for run in runs),
    ]
    return table


def common_level(results: Results, column: str) -> float | None:
    best = [max(run.curve("queries", "test_accuracy")[1]) for row in results.rows for run in results.cells.get((row, column), ())]
    return min(best) if best else None


def first_reaching(run: FinishedRun, level: float) -> tuple[float, float]:
    """Seconds and queries at the first logged step with at least that test accuracy."""
    for entry in run.metrics:
        if entry.get("test_accuracy", -1.0) >= level:
            return entry["seconds"], entry["queries"]
    raise UserError(f"{run.path}: never reaches {level:.2f}%")


def stage_seconds(runs: Sequence[FinishedRun]) -> str:
    """Mean seconds of each phase over whole runs: "features 1 s, stage 1 12 s, stage 2 40 s", or "steps 3 s" of one stage."""
    known = all("feature_seconds" in run.result for run in runs)
    parts = [f"features {mean_of(runs, 'feature_seconds'):.1f} s"] if known else []
    ends = [
        {stage: max(e["seconds"] for e in run.metrics if e["stage"] == stage) for stage in {e["stage"] for e in run.metrics}}
        for run in runs
    ]
    before = [0.0] * len(runs)
    for stage in sorted({stage for end in ends for stage in end}):
        spent = [end.get(stage, start) - start for end, start in zip(ends, before, strict=True)]
        before = [end.get(stage, start) for end, start in zip(ends, before, strict=True)]
        name = f"stage {stage}" if any(len(end) > 1 for end in ends) else "steps"
        parts.append(f"{name} {sum(spent) / len(spent):.1f} s")
    return ", ".join(parts)
