"""The one table of all commands: Markdown, LaTeX (booktabs) or aligned text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

FORMATS = ("markdown", "latex")


@dataclass
class Table:
    """Cells as text, with a heading, and notes below that explain them. `bold`: (row, column) of cells set in bold."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bold: set[tuple[int, int]] = field(default_factory=set)

    def grid(self) -> str:
        """The Markdown table alone, without heading and notes."""
        cells = [[f"**{cell}**" if spot in self.bold else cell for spot, cell in row] for row in self._spots()]
        return "\n".join([line_of(self.columns), "|" + "---|" * len(self.columns), *map(line_of, cells)])

    def markdown(self) -> str:
        return "\n".join([f"### {self.title}", "", self.grid(), "", *(line for note in self.notes for line in (note, ""))])

    def latex(self) -> str:
        """A table environment; needs \\usepackage{booktabs}."""
        cells = [
            [rf"\textbf{{{escape(cell)}}}" if spot in self.bold else escape(cell) for spot, cell in row] for row in self._spots()
        ]
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{escape(self.title)}. {escape(' '.join(self.notes))}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
                r"\toprule",
                " & ".join(map(escape, self.columns)) + r" \\",
                r"\midrule",
                *(" & ".join(row) + r" \\" for row in cells),
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
            ]
        )

    def text(self, form: str) -> str:
        return self.markdown() if form == "markdown" else self.latex()

    def plain(self) -> str:
        """Aligned columns for a terminal, without heading and notes."""
        return aligned([self.columns, *self.rows])

    def _spots(self) -> Iterable[list[tuple[tuple[int, int], str]]]:
        for i, row in enumerate(self.rows):
            yield [((i, j), cell) for j, cell in enumerate(row)]


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Rows of text in aligned columns."""
    rows = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


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
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "ρ": r"$\rho$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "–": "--",
}


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(LATEX.get(character, character) for character in text)
