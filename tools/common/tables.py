"""Mean and interval of a few repeats, and tables in Markdown or LaTeX."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

SPREADS = ("interval", "population")


class Sample(NamedTuple):
    """`n` repeats: their mean, 95 % t-interval (± half; nan of one repeat) and population standard deviation, as CoOp reports."""

    n: int
    mean: float
    half: float
    std: float


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


class Ratio(NamedTuple):
    """Sample standard deviations `a` and `b`, and the 95 % interval of σ_a/σ_b."""

    a: float
    b: float
    low: float
    high: float


def spread_ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """Of two sets of as many repeats, n ≥ 2, taken as normal: s_a²/s_b² over σ_a²/σ_b² is F(n − 1, n − 1)."""
    from scipy import stats

    of_a, of_b = (statistics.stdev(values) for values in (a, b))
    edge = math.sqrt(float(stats.f.ppf(0.975, len(a) - 1, len(b) - 1)))
    ratio = of_a / of_b if of_b else math.inf
    return Ratio(of_a, of_b, ratio / edge, ratio * edge)


def show(figures: Sample, spread: str = "interval", digits: int = 2) -> str:
    """ "80.29 ± 1.40 (n 3)"; one repeat has no spread."""
    if figures.n == 1:
        return f"{figures.mean:.{digits}f} (n 1)"
    width = figures.half if spread == "interval" else figures.std
    return f"{figures.mean:.{digits}f} ± {width:.{digits}f} (n {figures.n})"


def signed(number: float) -> str:
    """ "+0.58", "−0.29"; what rounds to 0 is +0.00."""
    return f"{'−' if round(number, 2) < 0 else '+'}{abs(number):.2f}"


def show_difference(figures: Sample) -> str:
    """ "−0.29 ± 1.40 (n 3)"."""
    return f"{signed(figures.mean)} ± {figures.half:.2f} (n {figures.n})"


@dataclass
class Table:
    """Cells as text, with a heading, and lines below that say what they are."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        head = [line_of(self.columns), "|" + "---|" * len(self.columns)]
        return "\n".join([f"### {self.title}", "", *head, *map(line_of, self.rows), "", *self._notes()])

    def latex(self) -> str:
        body = [" & ".join(escape(cell) for cell in row) + r" \\" for row in self.rows]
        head = " & ".join(escape(cell) for cell in self.columns) + r" \\"
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{escape(self.title)}. {escape(' '.join(self.notes))}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
                r"\hline",
                head,
                r"\hline",
                *body,
                r"\hline",
                r"\end{tabular}",
                r"\end{table}",
            ]
        )

    def text(self, form: str) -> str:
        return self.markdown() if form == "markdown" else self.latex()

    def _notes(self) -> list[str]:
        return [line for note in self.notes for line in (note, "")]


def line_of(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "ρ": r"$\rho$",
    "≥": r"$\ge$",
    "–": "--",
}


def escape(text: str) -> str:
    """Text as LaTeX sets it."""
    return "".join(LATEX.get(character, character) for character in text)
