"""Runs the notebooks in examples/notebooks and writes them as pages of docs/, with their output and figures.

    python -m tools.maintain.notebooks              # all of them
    python -m tools.maintain.notebooks two_stages

A notebook is a Python program whose cells begin with "# %%", or with "# %% [markdown]" for text in comments. A cell that
assigns `figure` shows it.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.common.cli import command, make_parser
from utils.config import REPOSITORY
from utils.errors import UserError

SOURCES = REPOSITORY / "examples" / "notebooks"
PAGES = REPOSITORY / "docs" / "notebooks"
HEAD = re.compile(r"^# %%(.*)\n", re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    """Text or code, and the line of the program on which it begins."""

    text: str
    is_text: bool
    line: int


def cells(program: str) -> list[Cell]:
    heads = list(HEAD.finditer(program))
    ends = [head.start() for head in heads[1:]] + [len(program)]
    found = []
    for head, end in zip(heads, ends, strict=True):
        body, line = program[head.end() : end], program[: head.end()].count("\n")
        if "[markdown]" in head[1]:
            found.append(Cell(re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip(), True, line))
        else:
            found.append(Cell(body.strip("\n"), False, line + len(body) - len(body.lstrip("\n"))))
    return found


def run(path: Path) -> Iterator[tuple[Cell, str, Any]]:
    """Each cell with its output and its figure, if any."""
    program = path.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(path)}
    for cell in cells(program):
        if cell.is_text:
            yield cell, "", None
            continue
        names.pop("figure", None)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            # an error names the line of the program
            exec(compile(ast.increment_lineno(ast.parse(cell.text), cell.line), str(path), "exec"), names)
        yield cell, printed.getvalue(), names.get("figure")


def write_page(path: Path, folder: Path) -> Path:
    """Writes the notebook as Markdown to `folder`, with its figures next to it."""
    folder.mkdir(parents=True, exist_ok=True)
    parts, number = [], 0
    for cell, printed, figure in run(path):
        parts.append(cell.text if cell.is_text else f"```python\n{cell.text}\n```")
        if printed:
            parts.append(f"```text\n{printed.rstrip()}\n```")
        if figure is not None:
            number += 1
            name = f"{path.stem}-{number}.png"
            figure.savefig(folder / name, dpi=90, metadata={"Software": None})
            parts.append(f"![{figure.axes[0].get_ylabel() or 'figure'} {number}]({name})")
    place = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path.name
    parts.insert(1, f"*This page is [{path.name}](../../{place}), run by `python -m tools.maintain.notebooks {path.stem}`.*")
    page = folder / f"{path.stem}.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def chosen(names: Sequence[str]) -> list[Path]:
    paths = [SOURCES / f"{name}.py" for name in names] or sorted(SOURCES.glob("*.py"))
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path.stem}: not a notebook; choose from {', '.join(p.stem for p in sorted(SOURCES.glob('*.py')))}")
    return paths


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.maintain.notebooks", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    for path in chosen(parser.parse_args(argv).names):
        print(write_page(path, PAGES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
