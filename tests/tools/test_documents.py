"""The documents: links resolve, generated parts match the code, and the site builds."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.maintain.method_table import FACTS, method_table
from tools.maintain.site_pages import PUBLISHED, site_links
from trainers import TRAINERS
from utils.config import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = sorted({*(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / name for name in PUBLISHED)})
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def prose(text: str) -> str:
    """`text` without code blocks and code spans, which may look like links or headings."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert not broken


def test_the_table_of_methods_is_that_of_the_registry() -> None:
    page = (REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8")
    assert method_table() in page, "run python -m tools.maintain.method_table"
    assert FACTS.keys() == TRAINERS.keys()
    assert all(page.count(f"| `{name}`") == 1 for name in TRAINERS)


@pytest.mark.parametrize(("document", "column"), [("optimizers.md", "queries per step"), ("baselines.md", "queries per step")])
def test_queries_per_step_agree_between_documents(document: str, column: str) -> None:
    text = (REPOSITORY / "docs" / document).read_text(encoding="utf-8")
    table = next(part for part in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE) if column in part)
    head, _, *rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in table.splitlines()]
    compared = 0
    for row in rows:
        for name in re.findall(r"`([a-z0-9-]+)`", row[0]):
            assert row[head.index(column)] == FACTS[name].queries, name
            compared += 1
    assert compared > 5


def test_readme_fits_its_size() -> None:
    assert len(README.splitlines()) <= 120
    assert len(README.split()) <= 1200


def test_readmes_results_are_those_of_the_measured_table() -> None:
    def cells(text: str) -> list[list[str]]:
        return [[cell.strip(" `*") for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("|")]

    document = (REPOSITORY / "docs" / "optimizers-measured.md").read_text(encoding="utf-8")
    start = document.index("<!-- equal 5000 -->")
    measured = {
        TRAINERS[row[0]].title: row
        for row in cells(document[start : document.index("<!-- end -->", start)])
        if row[0] in TRAINERS
    }
    head = README.index("| test accuracy (%)")
    shown = [row for row in cells(README[head : README.index("Mean ± 95%", head)])[2:] if row[0] != "Zero-shot"]
    assert len(shown) == 6
    for name, *accuracies, n in shown:
        row = measured[name.replace("** (ours)", "")]
        assert accuracies == row[2:5]
        assert set(row[5].split("/")) == {n}


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_examples_in_python_run(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", (REPOSITORY / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    exec(example, {})
    loss, *_ = capsys.readouterr().out.split()
    assert float(loss) < 0.01


def test_links_of_the_site_lead_to_its_pages() -> None:
    assert site_links("[a](docs/runs.md#one-run) [b](DATASET.md)", "index.md") == "[a](runs.md#one-run) [b](DATASET.md)"
    assert site_links("[card](../clip/mini/README.md)", "data.md") == "[card](mini-clip.md)"
    assert site_links("[code](../examples/any_black_box.py)", "use.md") == "code (`examples/any_black_box.py`)"
    assert site_links("[CITATION.cff](CITATION.cff)", "index.md") == "`CITATION.cff`"
    assert site_links("[any_black_box.py](../examples/any_black_box.py)", "use.md") == "`examples/any_black_box.py`"
    assert site_links("![a](front.png) [b](https://arxiv.org)", "use.md") == "![a](front.png) [b](https://arxiv.org)"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("material") is None:
        pytest.skip("needs mkdocs-material: pip install -e '.[site]'")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert '<a href="front.png"><img ' in (tmp_path / "index.html").read_text(encoding="utf-8"), "pictures open in full size"
    assert all((tmp_path / place).with_suffix(".html").is_file() for place in PUBLISHED.values())
