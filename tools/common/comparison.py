"""Two methods compared by seed: the mean difference with its t-interval and the p-value of the paired t-test."""

from __future__ import annotations

from tools.common.cells import Cell, accuracies, average, seeded
from tools.common.names import canonical, row_title
from tools.common.runs import FinishedRun
from tools.common.samples import Sample, difference, paired_p, sample, show, show_difference
from tools.common.tables import Table
from utils.errors import UserError

NO_SEED = -1

Where = tuple[str, int | None]
Found = dict[Where, dict[str, dict[int, float]]]


def comparison_table(cells: dict[Cell, list[FinishedRun]], a: str, b: str) -> Table:
    """A − B by dataset, backbone and shots, over the seeds that both have. Raises UserError if they have none in common.

    `a` and `b`: a method, or METHOD:RUN_NAME for runs with a --run_name.
    """
    ours, theirs = (_select(cells, name) for name in (a, b))
    titles = [row_title(*_parse(name)) for name in (a, b)]
    table = Table(
        f"{titles[0]} minus {titles[1]}, test accuracy (%)",
        ["dataset", "backbone", "shots", *titles, "difference, points", "p"],
    )
    for where in _places(ours, theirs):
        backbone, shots = where
        pairs = {}
        datasets = [name for name in _at(ours, where) if name in _at(theirs, where)]
        for dataset in datasets:
            pair = _common(_at(ours, where)[dataset], _at(theirs, where)[dataset])
            if pair:
                pairs[dataset] = pair
                table.rows.append([dataset, backbone, str(shots or "–"), *_cells(*pair)])
        if not pairs:
            continue
        means = [average({dataset: pair[side] for dataset, pair in pairs.items()}, list(pairs)) for side in (0, 1)]
        if len(pairs) > 1 and means[0] and means[1]:
            table.rows.append([f"average of {len(pairs)}", backbone, str(shots or "–"), *_cells(means[0], means[1])])
    if not table.rows:
        raise UserError(f"--compare {a} {b}: no dataset, backbone and number of shots where both have the same seed")
    table.notes.append(
        "Mean ± 95% t-interval over the n seeds that both have; differences are paired by seed (the same images). "
        "p: two-sided paired t-test, without correction for the number of rows."
    )
    return table


def _parse(name: str) -> tuple[str, str]:
    method, _, variant = name.partition(":")
    return canonical(method), variant


def _select(cells: dict[Cell, list[FinishedRun]], name: str) -> Found:
    method, variant = _parse(name)
    found: Found = {}
    for cell, runs in cells.items():
        if (cell.method, cell.variant) == (method, variant):
            values = accuracies(runs)
            # Zero-shot has no seed, so it shares none with the other method.
            found.setdefault((cell.backbone, cell.shots), {})[cell.dataset] = (
                values if seeded(method) else {NO_SEED: next(iter(values.values()))}
            )
    if not found:
        there = sorted({f"{cell.method}:{cell.variant}" if cell.variant else cell.method for cell in cells})
        raise UserError(f"--compare: no run of {name!r}; choose from {', '.join(there)}")
    return found


def _places(ours: Found, theirs: Found) -> list[Where]:
    """Backbones and shots of either; zero-shot, which has no shots, is compared with every number of shots."""
    places = [*ours, *theirs]
    backbones = {backbone for backbone, _ in ours} & {backbone for backbone, _ in theirs}
    with_shots = [where for where in dict.fromkeys(places) if where[1] is not None and where[0] in backbones]
    return with_shots or [where for where in dict.fromkeys(places) if where[0] in backbones]


def _at(found: Found, where: Where) -> dict[str, dict[int, float]]:
    return found.get(where) or found.get((where[0], None), {})


def _common(a: dict[int, float], b: dict[int, float]) -> tuple[dict[int, float], dict[int, float]] | None:
    """Both over their common seeds; a single zero-shot value stands for every seed of the other."""
    if NO_SEED in a and NO_SEED not in b:
        a = dict.fromkeys(b, a[NO_SEED])
    if NO_SEED in b and NO_SEED not in a:
        b = dict.fromkeys(a, b[NO_SEED])
    seeds = sorted(a.keys() & b.keys())
    return ({seed: a[seed] for seed in seeds}, {seed: b[seed] for seed in seeds}) if seeds else None


def _cells(a: dict[int, float], b: dict[int, float]) -> list[str]:
    figures = difference([a[seed] for seed in a], [b[seed] for seed in a])
    return [show(sample(list(a.values()))), show(sample(list(b.values()))), _difference(figures), _p(figures)]


def _difference(figures: Sample) -> str:
    return show_difference(figures) if figures.n > 1 else f"{figures.mean:+.2f} (n = 1)".replace("-", "−")


def _p(figures: Sample) -> str:
    if figures.n < 2:
        return "–"
    value = paired_p(figures)
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
