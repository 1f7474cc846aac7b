"""Writes docs/optimizers.md's tables and figure of optimizers at equal queries from docs/optimizers/equal.csv.

    python -m tools.maintain.equal_tables

A difference is paired by seed (same images, same A) on each set, then averaged over the sets: its standard error comes from the
spread of the pairs within each set, its degrees of freedom from Welch and Satterthwaite. It is about these sets and no others.
p-values of one table are corrected by Holm.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tools.common.cli import command, make_parser
from tools.common.plotting import finish, require_matplotlib, start
from tools.common.samples import grouped, sample
from tools.maintain.equal_queries import BUDGETS, FOLDER, SETS, read
from trainers import TRAINERS
from utils.config import REPOSITORY
from utils.errors import UserError
from utils.files import write_text

DOCUMENT = REPOSITORY / "docs" / "optimizers.md"
REFERENCE = "sharpzo"
LEVEL = 0.05

# accuracies by name, set and seed
Accuracies = Mapping[str, Mapping[str, Mapping[int, float]]]


class Difference(NamedTuple):
    """Mean over sets of paired differences: `sets` of them, `n` pairs in all, ± half of the 95% interval, two-sided p."""

    sets: int
    n: int
    mean: float
    half: float
    p: float


def stratified(by_set: Sequence[Sequence[float]]) -> Difference:
    """From the paired differences on each set, at least two of them."""
    from scipy import stats

    count = len(by_set)
    mean = statistics.mean(statistics.mean(values) for values in by_set)
    variances = [statistics.variance(values) / len(values) / count**2 for values in by_set]
    error = math.sqrt(sum(variances))
    n = sum(map(len, by_set))
    if not error:
        return Difference(count, n, mean, 0.0, 1.0 if mean == 0 else 0.0)
    degrees = error**4 / sum(v**2 / (len(values) - 1) for v, values in zip(variances, by_set, strict=True))
    half = float(stats.t.ppf(0.975, degrees)) * error
    return Difference(count, n, mean, half, float(2 * stats.t.sf(abs(mean) / error, degrees)))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for their number by Holm's step-down procedure."""
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return corrected


def accuracies(budget: int) -> dict[str, dict[str, dict[int, float]]]:
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in read("equal"):
        if row["budget"] == str(budget):
            found.setdefault(row["name"], {}).setdefault(row["set"], {})[int(row["seed"])] = float(row["test_accuracy"])
    return found


def differences(found: Accuracies, reference: str) -> dict[str, Difference]:
    """Of every other name from the reference, on the sets where both have at least two seeds in common."""
    results = {}
    for name in found:
        pairs = []
        for dataset in SETS:
            ours, theirs = (found.get(key, {}).get(dataset, {}) for key in (name, reference))
            common = sorted(ours.keys() & theirs.keys())
            if len(common) > 1:
                pairs.append([ours[seed] - theirs[seed] for seed in common])
        if name != reference and pairs:
            results[name] = stratified(pairs)
    return results


def average_ranks(found: Accuracies) -> dict[str, float]:
    """Mean over sets of each name's rank by mean accuracy, 1 the best, among the names that are on every set."""
    names = [name for name in found if all(dataset in found[name] for dataset in SETS)]
    ranks: dict[str, list[float]] = {name: [] for name in names}
    for dataset in SETS:
        means = {name: statistics.mean(found[name][dataset].values()) for name in names}
        for name in names:
            ties = sum(other == means[name] for other in means.values())
            ranks[name].append(sum(other > means[name] for other in means.values()) + (ties + 1) / 2)
    return {name: statistics.mean(values) for name, values in ranks.items()}


def verdict(difference: Difference, p: float) -> str:
    if p >= LEVEL:
        return "not told apart"
    return "above" if difference.mean > 0 else "below"


def signed(number: float) -> str:
    return f"{number:+.1f}".replace("-", "−")


def table(budget: int) -> str:
    """Markdown, the best first: by mean over the sets that every listed name has, then by set."""
    found = accuracies(budget)
    if not found:
        raise UserError(f"{FOLDER / 'equal.csv'}: no rows at {budget} queries; run python -m tools.maintain.equal_queries first")
    rows = [row for row in read("equal") if row["budget"] == str(budget)]
    sets = [dataset for dataset in SETS if any(dataset in found[name] for name in found)]
    apart, ranks = differences(found, REFERENCE), average_ranks(found)
    corrected = holm({name: difference.p for name, difference in apart.items()})

    def order(name: str) -> tuple[int, float]:
        return -len(found[name]), -statistics.mean(statistics.mean(values.values()) for values in found[name].values())

    header = ["name", "settings", *sets, "n per set", "mean rank", f"above `{REFERENCE}`", "Holm p", "verdict", "CPU s"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name in sorted(found, key=order):
        cells = []
        for dataset in sets:
            values = list(found[name].get(dataset, {}).values())
            half = f" ± {sample(values).half:.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{half}" if values else "–")
        own = [row for row in rows if row["name"] == name]
        counts = "/".join(str(len(found[name].get(dataset, ()))) for dataset in sets)
        settings = ", ".join(dict.fromkeys(own[0]["settings"].split())) or "defaults"
        rank = f"{ranks[name]:.1f}" if name in ranks else "–"
        if name in apart:
            d, p = apart[name], corrected[name]
            against = [f"{signed(d.mean)} ± {d.half:.1f}", f"{p:.3f}" if p >= 0.001 else "< 0.001", verdict(d, p)]
        else:
            against = ["–", "–", "–"]
        seconds = "/".join(f"{seconds_of(own, dataset):.0f}" if dataset in found[name] else "–" for dataset in sets)
        lines.append(f"| {' | '.join([f'`{name}`', settings, *cells, counts, rank, *against, seconds])} |")
    return "\n".join(lines)


def seconds_of(rows: Sequence[Mapping[str, str]], dataset: str) -> float:
    return statistics.mean(float(row["cpu_seconds"]) for row in rows if row["set"] == dataset)


def draw(output: Path) -> Path:
    """Mean accuracy per set: against queries (left of a pair) and against CPU seconds, 95% intervals over seeds."""
    require_matplotlib()
    found = {budget: accuracies(budget) for budget in BUDGETS}
    rows = read("equal")
    # names that have every budget would hide the others; the lower half of the table is in the tables
    names = [name for name in found[BUDGETS[0]] if name in found[BUDGETS[-1]]]
    figure, panels = start(nrows=2, ncols=len(SETS), figsize=(9.6, 6.0), squeeze=False, sharey="col")
    for column, dataset in enumerate(SETS):
        for number, name in enumerate(names):
            own = [budget for budget in BUDGETS if dataset in found[budget].get(name, {})]
            samples = [sample(list(found[budget][name][dataset].values())) for budget in own]
            of_name = [[row for row in rows if row["name"] == name and row["budget"] == str(budget)] for budget in own]
            seconds = [seconds_of(part, dataset) for part in of_name]
            shifted = [budget * 1.04 ** (number - len(names) / 2) for budget in own]
            for row, places in enumerate((shifted, seconds)):
                panels[row][column].errorbar(
                    places,
                    [figures.mean for figures in samples],
                    [figures.half for figures in samples],
                    marker="osD^vPX*<>"[number % 10],
                    color=f"C{number % 10}",
                    linewidth=2.0 if name.startswith("sharpzo") else 0.9,
                    markersize=4,
                    capsize=2,
                    label=TRAINERS[name].title,
                )
        panels[0][column].set_title(dataset, fontsize="medium")
        panels[0][column].set_xscale("log")
        panels[0][column].set_xticks(BUDGETS, [grouped(budget) for budget in BUDGETS])
        panels[0][column].minorticks_off()
        panels[0][column].set_xlabel("queries")
        panels[1][column].set_xscale("log")
        panels[1][column].set_xlabel("CPU seconds")
        for row in range(2):
            panels[row][column].grid(alpha=0.3)
    for row in range(2):
        panels[row][0].set_ylabel("test accuracy (%)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    return finish(figure, output)


def between(document: str, marker: str, text: str) -> str:
    """The document with `text` between <!-- marker --> and the next <!-- end -->."""
    if f"<!-- {marker} -->\n" not in document:
        raise UserError(f"{DOCUMENT}: the marker <!-- {marker} --> is missing; add it, and <!-- end --> below it")
    before, rest = document.split(f"<!-- {marker} -->\n", 1)
    _, after = rest.split("<!-- end -->", 1)
    return f"{before}<!-- {marker} -->\n{text}\n<!-- end -->{after}"


@command
def main(argv: list[str]) -> int:
    make_parser("tools.maintain.equal_tables", __doc__).parse_args(argv)
    document = DOCUMENT.read_text(encoding="utf-8")
    for budget in BUDGETS:
        document = between(document, f"equal {budget}", table(budget))
    write_text(DOCUMENT, document)
    draw(FOLDER / "equal.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
