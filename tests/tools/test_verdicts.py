"""Holm's correction, the seeds that would decide a claim, and average ranks."""

from __future__ import annotations

import math

import pytest

from tools.common.samples import difference
from tools.common.verdicts import MOST_SEEDS, average_ranks, holm, judge, seeds_to_decide


def test_holm_multiplies_the_smallest_most_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_difference_that_holds_alone_is_undecided_among_many() -> None:
    clear, zero = difference([3.0, 4.0, 5.0, 4.0], [0.0] * 4), difference([1.0, -1.0, 2.0, -2.0], [0.0] * 4)
    (alone,) = judge([clear])
    assert alone.word == "holds"
    (opposite,) = judge([difference([-3.0, -4.0, -5.0, -4.0], [0.0] * 4)])
    assert opposite.word == "fails"
    among = judge([clear, *[zero] * 60])
    assert among[0].word == "undecided" and among[0].p == pytest.approx(61 * alone.p)
    assert 4 < among[0].seeds < 20
    assert str(among[1]) == f"undecided (> {MOST_SEEDS} seeds)"
    assert str(judge([None])[0]) == "too few runs"


def test_seeds_to_decide_give_an_interval_that_excludes_zero() -> None:
    from scipy import stats

    figures = difference([1.0, 3.0, 0.0, 2.0], [0.5] * 4)
    n = seeds_to_decide(figures, 0.05)
    deviation = figures.std * math.sqrt(4 / 3)

    def half(n: int) -> float:
        return float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)

    assert half(n) < figures.mean <= half(n - 1)


def test_average_ranks_and_critical_difference_are_the_published_ones() -> None:
    # Demšar (2006), table 6 and page 14: four classifiers on 14 sets have a critical difference of 1.25 at 5%
    scores = {name: [base + i / 100 for i in range(14)] for name, base in (("a", 4.0), ("b", 3.0), ("c", 2.0), ("d", 1.0))}
    ranks = average_ranks(scores)
    assert ranks.averages == {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    assert ranks.critical == pytest.approx(1.25, abs=0.005)
    assert ranks.p < 1e-6
    assert average_ranks(scores, higher_is_better=False).averages["d"] == 1.0
    tied = average_ranks({"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [0.0, 0.0]})
    assert tied.averages == {"a": 1.5, "b": 1.5, "c": 3.0}
    with pytest.raises(ValueError, match="3 methods"):
        average_ranks({"a": [1.0, 2.0], "b": [1.0, 2.0]})
