"""Judges paired differences: Holm's correction, the seeds that would decide, and average ranks with a critical difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tools.common.samples import Sample, paired_p

LEVEL = 0.05
# Beyond this many seeds a difference is too small to be worth deciding.
MOST_SEEDS = 1000


class Verdict(NamedTuple):
    """`word`: holds, fails, undecided, or "too few runs". `p`: Holm's. `seeds`: as many would decide; 0 if it is decided."""

    word: str
    p: float
    seeds: int = 0

    def __str__(self) -> str:
        if self.word != "undecided":
            return self.word
        return f"undecided ({self.seeds} seeds would decide)" if self.seeds <= MOST_SEEDS else f"undecided (> {MOST_SEEDS} seeds)"


def judge(samples: Sequence[Sample | None]) -> list[Verdict]:
    """A verdict on each claim "the mean is above 0", corrected for all of them together; None and one pair cannot be judged."""
    judged = [i for i, figures in enumerate(samples) if figures and figures.n > 1]
    corrected = dict(zip(judged, holm([paired_p(found) for i in judged if (found := samples[i])]), strict=True))
    verdicts = []
    for i, figures in enumerate(samples):
        if figures is None or i not in corrected:
            verdicts.append(Verdict("too few runs", math.nan))
        elif corrected[i] < LEVEL:
            verdicts.append(Verdict("holds" if figures.mean > 0 else "fails", corrected[i]))
        else:
            verdicts.append(Verdict("undecided", corrected[i], seeds_to_decide(figures, LEVEL / len(judged))))
    return verdicts


def judge_below(samples: Sequence[Sample | None]) -> list[Verdict]:
    """`judge` for claims "the mean is below 0", as of losses."""
    return judge([one and one._replace(mean=-one.mean) for one in samples])


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979): the k-th smallest of m times m − k + 1, made monotone, at most 1."""
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def seeds_to_decide(figures: Sample, level: float) -> int:
    """The fewest pairs whose t-test at `level` would reject, if mean and standard deviation stayed as they are.

    MOST_SEEDS + 1 where even that many would not.
    """
    from scipy import stats

    deviation = figures.std * math.sqrt(figures.n / (figures.n - 1))
    for n in range(2, MOST_SEEDS + 1):
        if abs(figures.mean) > float(stats.t.ppf(1 - level / 2, n - 1)) * deviation / math.sqrt(n):
            return n
    return MOST_SEEDS + 1


class Ranks(NamedTuple):
    """Average rank of each method over `n` sets (1: best), Friedman's p-value, and Nemenyi's critical difference at 5%."""

    averages: dict[str, float]
    n: int
    p: float
    critical: float


def average_ranks(scores: Mapping[str, Sequence[float]], higher_is_better: bool = True) -> Ranks:
    """Of methods by their scores on the same sets, as in Demšar (2006); equal scores share their ranks.

    Needs three methods or more and two sets or more; ValueError otherwise.
    """
    from scipy import stats

    names = list(scores)
    k, n = len(names), len(scores[names[0]]) if names else 0
    if k < 3 or n < 2:
        raise ValueError(f"ranks need at least 3 methods on 2 sets; there are {k} on {n}")
    sign = -1.0 if higher_is_better else 1.0
    by_set = [stats.rankdata([sign * scores[name][i] for name in names]) for i in range(n)]
    averages = {name: float(sum(ranks[j] for ranks in by_set)) / n for j, name in enumerate(names)}
    p = float(stats.friedmanchisquare(*[[ranks[j] for ranks in by_set] for j in range(k)]).pvalue)
    studentized = float(stats.studentized_range.ppf(1 - LEVEL, k, math.inf))
    return Ranks(averages, n, p, studentized / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n)))
