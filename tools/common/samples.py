"""Mean and interval of a few repeats, paired differences, and ratios of spreads."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

# What follows ±: a 95% t-interval, the sample standard deviation, or CoOp's population standard deviation.
SPREADS = ("interval", "sample", "population")
SPREAD_NAMES = {
    "interval": "95% t-interval",
    "sample": "sample standard deviation",
    "population": "population standard deviation",
}


class Sample(NamedTuple):
    """`n` repeats: their mean, 95% t-interval (± half; nan for one repeat) and population standard deviation."""

    n: int
    mean: float
    half: float
    std: float

    def spread(self, kind: str) -> float:
        """One of SPREADS; nan for one repeat."""
        if self.n == 1:
            return math.nan
        return {"interval": self.half, "sample": self.std * math.sqrt(self.n / (self.n - 1)), "population": self.std}[kind]


def sample(values: Sequence[float]) -> Sample:
    from scipy import stats

    n = len(values)
    mean = math.fsum(values) / n
    squares = math.fsum((value - mean) ** 2 for value in values)
    half = float(stats.t.ppf(0.975, n - 1)) * math.sqrt(squares / (n - 1) / n) if n > 1 else math.nan
    return Sample(n, mean, half, math.sqrt(squares / n))


def difference(a: Sequence[float], b: Sequence[float]) -> Sample:
    """Of pairs a_i − b_i: the same seeds, so the same images, under two settings."""
    return sample([x - y for x, y in zip(a, b, strict=True)])


def paired_p(figures: Sample) -> float:
    """Two-sided p-value of the paired t-test, from the differences' mean and interval. nan for fewer than two pairs."""
    from scipy import stats

    if figures.n < 2:
        return math.nan
    if figures.half == 0.0:
        return 1.0 if figures.mean == 0.0 else 0.0
    t = figures.mean / figures.half * float(stats.t.ppf(0.975, figures.n - 1))
    return float(2 * stats.t.sf(abs(t), figures.n - 1))


class Ratio(NamedTuple):
    """Sample standard deviations `a` and `b`, and the 95% interval of σ_a/σ_b."""

    a: float
    b: float
    low: float
    high: float


def spread_ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """Of two sets of n ≥ 2 repeats, assumed normal: s_a²/s_b² over σ_a²/σ_b² is F(n − 1, n − 1)."""
    from scipy import stats

    of_a, of_b = (statistics.stdev(values) for values in (a, b))
    edge = math.sqrt(float(stats.f.ppf(0.975, len(a) - 1, len(b) - 1)))
    ratio = of_a / of_b if of_b else math.inf
    return Ratio(of_a, of_b, ratio / edge, ratio * edge)


def show(figures: Sample, spread: str = "interval", digits: int = 2) -> str:
    """ "80.29 ± 1.40 (n = 3)"; a single repeat has no spread."""
    if figures.n == 1:
        return f"{figures.mean:.{digits}f} (n = 1)"
    return f"{figures.mean:.{digits}f} ± {figures.spread(spread):.{digits}f} (n = {figures.n})"


def signed(number: float) -> str:
    """ "+0.58", "−0.29"; what rounds to 0 is +0.00."""
    return f"{'−' if round(number, 2) < 0 else '+'}{abs(number):.2f}"


def show_difference(figures: Sample) -> str:
    """ "−0.29 ± 1.40 (n = 3)"."""
    return f"{signed(figures.mean)} ± {figures.half:.2f} (n = {figures.n})"


def grouped(number: float) -> str:
    """34740 as "34,740"."""
    return f"{number:,.0f}"


def best(means: Sequence[Sequence[float | None]]) -> set[tuple[int, int]]:
    """Cells (row, column) with the highest mean of their column, as shown to two decimals; the row's name is column 0.

    None in a column with a single entry.
    """
    found = set()
    for column in range(len(means[0]) if means else 0):
        shown = {i: round(value, 2) for i, row in enumerate(means) if (value := row[column]) is not None}
        if len(shown) > 1:
            found |= {(i, column + 1) for i, value in shown.items() if value == max(shown.values())}
    return found
