"""The notebooks run, and the pages in docs/ match their output."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.maintain import notebooks

NAMES = [path.stem for path in notebooks.chosen([])]


def outputs(page: str) -> list[str]:
    return re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def code(page: str) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("name", NAMES)
def test_pages_hold_the_notebooks_cells_and_figures(name: str) -> None:
    page = (notebooks.PAGES / f"{name}.md").read_text(encoding="utf-8")
    cells = notebooks.cells((notebooks.SOURCES / f"{name}.py").read_text(encoding="utf-8"))
    missing = [cell.text[:60] for cell in cells if cell.text not in page]
    assert not missing, f"run python -m tools.maintain.notebooks {name}"
    figures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page)
    assert figures and sum((notebooks.PAGES / figure).stat().st_size for figure in figures) < 150_000


def test_from_scratch_agrees_with_the_repositorys_own_in_queries_and_gains(tmp_path: Path) -> None:
    page = notebooks.write_page(notebooks.SOURCES / "from_scratch.py", tmp_path).read_text(encoding="utf-8")
    start, _, _, scratch, ours = outputs(page)
    numbers = [[float(number.replace(",", "")) for number in re.findall(r"[\d.,]+\d", text)] for text in (start, scratch, ours)]
    assert numbers[1][1] == numbers[2][1] == 3200
    assert max(numbers[1][0], numbers[2][0]) < numbers[0][1] / 50
    assert (tmp_path / "from_scratch-1.png").is_file()


def test_two_stages_end_below_their_initial_loss(tmp_path: Path) -> None:
    page = notebooks.write_page(notebooks.SOURCES / "two_stages.py", tmp_path).read_text(encoding="utf-8")
    ends = re.findall(r"^(?:start|end of stage \d): loss ([\d.]+), test", page, re.MULTILINE)
    start, first, last = map(float, ends)
    assert last < first < start
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_an_error_names_the_line_of_the_notebook(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("# %%\nx = 1\n\n# %% [markdown]\n# text\n\n# %%\n\ny = x / 0\n")
    with pytest.raises(ZeroDivisionError) as error:
        notebooks.write_page(path, tmp_path)
    assert error.traceback[-1].lineno + 1 == 9
