"""What SharpZO's gains on a set go with: the number of classes and shots, zero-shot accuracy, and what backpropagation gains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from scipy.stats import spearmanr

from datasets import DATASETS
from tools.common.tables import Table
from tools.common.verdicts import LEVEL, holm
from tools.reproduce.results import Results
from tools.reproduce.suites import OURS

ZERO_SHOT, RIVAL, IMPROVED, BACKPROPAGATED = "zero-shot", "bbt", "sharpzo+", "coop"
FEWEST = 5  # sets of a correlation

# of the finished runs and a set; NaN where it is not known
Figure = Callable[[Results, str], float]


def gains_tables(results: Results) -> list[Table]:
    """Properties and gains of the sets that SharpZO ran on, and their rank correlations; none for fewer than FEWEST sets."""
    sets = [column for column in results.columns if (OURS, column) in results.cells]
    if len(sets) < FEWEST:
        return []
    table = Table("What a set has, and what is gained on it", ["set", *PROPERTIES, *(f"{name}, points" for name in GAINS)])
    for column in sets:
        figures = [measure(results, column) for measure in PROPERTIES.values()]
        gained = [gain(results, column) for gain in GAINS.values()]
        table.rows.append(
            [column, *(shown(value, "{:.3g}") for value in figures), *(shown(value, "{:+.1f}") for value in gained)]
        )
    table.notes.append("Differences of means over the seeds that both methods have. CoOp: as far as it was run.")
    return [table, correlations(results, sets)]


def correlations(results: Results, sets: list[str]) -> Table:
    """Spearman's ρ over sets of every property with every gain; Holm's correction over all of them."""
    table = Table("Rank correlation over sets", ["property", "sets", *GAINS])
    found = [rank_correlation(results, sets, measure, gain) for measure in PROPERTIES.values() for gain in GAINS.values()]
    corrected = holm([p for _, p in found])
    texts = [told(rho, p) for (rho, _), p in zip(found, corrected, strict=True)]
    for start, (name, measure) in enumerate(PROPERTIES.items()):
        known = sum(not math.isnan(measure(results, column)) for column in sets)
        table.rows.append([name, str(known), *texts[start * len(GAINS) : (start + 1) * len(GAINS)]])
    table.notes.append(f"p after Holm's correction over the {len(found)} correlations; **bold**: below {LEVEL}.")
    return table


def rank_correlation(results: Results, sets: list[str], measure: Figure, gain: Figure) -> tuple[float, float]:
    """ρ and p over the sets where both are known; NaN and 1 for fewer than FEWEST sets, and where one of them is constant."""
    pairs = [(measure(results, column), gain(results, column)) for column in sets]
    known = [pair for pair in pairs if not any(map(math.isnan, pair))]
    if len(known) < FEWEST or any(len(set(values)) == 1 for values in zip(*known, strict=True)):
        return math.nan, 1.0
    rho, p = spearmanr([x for x, _ in known], [y for _, y in known])
    return float(rho), float(p)


def shown(value: float, form: str) -> str:
    return "–" if math.isnan(value) else form.format(value).replace("-", "−")


def told(rho: float, p: float) -> str:
    if math.isnan(rho):
        return "–"
    text = f"{shown(rho, '{:+.2f}')} (p = {p:.3f})"
    return f"**{text}**" if p < LEVEL else text


def above(method: str, rival: str) -> Figure:
    """The mean difference of two methods on a set; NaN where one was not run."""

    def difference(results: Results, column: str) -> float:
        first, second = results.values(method, column), results.values(rival, column)
        common = first.keys() & second.keys() if rival != ZERO_SHOT else first.keys()
        if not common or not second:
            return math.nan
        other = [second[seed] for seed in common] if rival != ZERO_SHOT else list(second.values())
        return sum(first[seed] for seed in common) / len(common) - sum(other) / len(other)

    return difference


def classes(results: Results, column: str) -> float:
    sizes = DATASETS[column].sizes
    return sizes.classes if sizes else math.nan


def shots(results: Results, column: str) -> float:
    return results.cells[OURS, column][0].result["shots"]


def zero_shot(results: Results, column: str) -> float:
    values = results.values(ZERO_SHOT, column)
    return next(iter(values.values()), math.nan)


PROPERTIES: Mapping[str, Figure] = {
    "classes": classes,
    "shots": shots,
    "zero-shot accuracy (%)": zero_shot,
    "CoOp above zero-shot": above(BACKPROPAGATED, ZERO_SHOT),
}
GAINS: Mapping[str, Figure] = {
    "SharpZO above zero-shot": above(OURS, ZERO_SHOT),
    "SharpZO above BBT": above(OURS, RIVAL),
    "SharpZO+ above SharpZO": above(IMPROVED, OURS),
}
