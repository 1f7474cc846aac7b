"""The tables of equal budgets: a row per set, the average ranks of the methods over the sets, and transfer from one set."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tools.common.names import label
from tools.common.tables import Table
from tools.common.verdicts import average_ranks
from tools.reproduce.results import ACCURACY, LOSSES, Results, accuracy_table
from tools.reproduce.suites import JobFactory
from trainers import TRAINERS

RANKED = {ACCURACY: "test accuracy", LOSSES[0]: "training cross-entropy", LOSSES[1]: "test cross-entropy"}


def equal_tables(results: Results, title: str) -> list[Table]:
    """Accuracy and cross-entropies by set and method, and the ranks where three methods share two sets."""
    ranks = ranks_table(results)
    return [by_set(results, title), *([ranks] if ranks else [])]


def transfer_tables(results: Results, maker: JobFactory) -> list[Table]:
    """Where the prompts were tuned and under shift; then on the other sets."""
    suite = maker.suite
    others = [one for one in suite.datasets if one != suite.source]
    tables = []
    for title, columns, averaged in (
        (f"Tuned on {suite.source}, tested under shift", [suite.source, *suite.shifts], suite.shifts),
        (f"Tuned on {suite.source}, tested on the other sets", others, others),
    ):
        part = Results(results.cells, results.rows, columns)
        tables.append(accuracy_table(part, f"{title} (%), equal budgets", averaged=averaged))
    return tables


def by_set(results: Results, title: str) -> Table:
    """`accuracy_table` with a row per set that was run, and a column per method that was."""
    run = [column for column in results.columns if any((row, column) in results.cells for row in trained(results))]
    part = Results(results.cells, results.rows, run)
    table = transposed(accuracy_table(part, title, losses=True), "set")
    apart = [column for column in run if errors_apart(results, column) > 3]
    if apart:
        table.notes.append(
            f"The best and the worst forward-only method are more than three standard errors of their difference apart on "
            f"{len(apart)} of {len(run)} sets: {', '.join(apart)}."
        )
    return table


def forward_only(results: Results) -> list[str]:
    return [row for row in trained(results) if row not in TRAINERS or not TRAINERS[row].derivative]


def errors_apart(results: Results, column: str) -> float:
    """The difference of the best and the worst forward-only method's mean accuracies over its standard error.

    0 where fewer than two methods have two seeds.
    """
    samples = [one for row in forward_only(results) if (one := results.sample(row, column, ACCURACY)) and one.n > 1]
    if len(samples) < 2:
        return 0.0
    best, worst = max(samples, key=lambda one: one.mean), min(samples, key=lambda one: one.mean)
    error = math.sqrt(sum(one.std**2 / (one.n - 1) for one in (best, worst)))
    return (best.mean - worst.mean) / error if error else math.inf


def trained(results: Results) -> list[str]:
    return [row for row in results.rows if row not in TRAINERS or TRAINERS[row].trains]


def transposed(table: Table, head: str) -> Table:
    """The table with rows and columns exchanged."""
    names = [row[0] for row in table.rows]
    rows: list[Sequence[str]] = [[column, *(row[j] for row in table.rows)] for j, column in enumerate(table.columns) if j]
    bold = {(j - 1, i + 1) for i, j in table.bold}
    return Table(table.title, [head, *names], rows, table.notes, bold)


def ranks_table(results: Results) -> Table | None:
    """Average ranks of the forward-only methods over the sets that the most methods share; None for fewer than three on two."""
    methods = forward_only(results)
    sets, ranked = shared(results, methods)
    if len(ranked) < 3 or len(sets) < 2:
        return None
    table = Table("Average rank over sets (1: best)", ["method", *RANKED.values()])
    found = {}
    for key in RANKED:
        means = {row: [one.mean for column in sets if (one := results.sample(row, column, key))] for row in ranked}
        if all(len(values) == len(sets) for values in means.values()):
            found[key] = average_ranks(means, higher_is_better=key == ACCURACY)
    for row in sorted(ranked, key=lambda row: found[ACCURACY].averages[row]):
        table.rows.append([label(row), *(f"{found[key].averages[row]:.2f}" if key in found else "–" for key in RANKED)])
    ps = ", ".join(f"{found[key].p:.2g} ({name})" for key, name in RANKED.items() if key in found)
    table.notes.append(
        f"Over {len(sets)} sets: {', '.join(sets)}. Ranks of the mean over seeds. Critical difference at 5% (Nemenyi): "
        f"{found[ACCURACY].critical:.2f}; Friedman's test: p = {ps}."
    )
    left = [label(row) for row in methods if row not in ranked]
    if left:
        table.notes.append(f"Not ranked, since not run on all of these sets: {', '.join(left)}.")
    return table


def shared(results: Results, methods: Sequence[str]) -> tuple[list[str], list[str]]:
    """The sets and methods of the largest complete block: all sets that a method has, and the methods that have them all."""
    blocks = []
    for method in methods:
        sets = [column for column in results.columns if (method, column) in results.cells]
        blocks.append((sets, [row for row in methods if all((row, column) in results.cells for column in sets)]))
    complete = [(sets, rows) for sets, rows in blocks if sets]
    return max(complete, key=lambda block: len(block[0]) * len(block[1]), default=([], []))
