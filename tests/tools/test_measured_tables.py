"""The tables in the documents are the output of the commands next to them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.maintain import results_page
from tools.reproduce import __main__ as reproduce
from utils.config import REPOSITORY

DOCS = REPOSITORY / "docs"
RECORDED = {
    "mini": ("table1", "table7", "cross", "claims"),
    "icons": ("claims", "equal", "parts", "transfer", "dimensions", "table1", "table5", "table6", "table7", "base2new", "shots"),
}


def test_page_of_the_earlier_suite_links_every_table_that_was_made() -> None:
    page = (DOCS / "mini" / "README.md").read_text(encoding="utf-8")
    for made in sorted((DOCS / "mini").glob("*.md")):
        assert made.name == "README.md" or f"({made.name})" in page, made.name


def test_results_pages_hold_the_tables_that_were_made() -> None:
    places = ("<!-- first table of claims -->", "<!-- table1 -->", "<!-- table6 -->")
    for page, place in zip(results_page.PAGES, places, strict=True):
        text = page.read_text(encoding="utf-8")
        assert place in text and results_page.with_tables(text) == text


def test_images_in_documents_exist_and_are_all_used() -> None:
    texts = {path: path.read_text() for path in (*DOCS.rglob("*.md"), REPOSITORY / "README.md")}
    shown = {
        (path.parent / name).resolve() for path, text in texts.items() for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    }
    assert shown == {path.resolve() for path in DOCS.rglob("*.png")}


@pytest.mark.parametrize(
    ("suite", "name"),
    [(suite, name) for suite, names in RECORDED.items() for name in names],
)
def test_tables_are_those_of_the_recorded_runs(suite: str, name: str, tmp_path: Path) -> None:
    if name == "shots":
        pytest.importorskip("matplotlib")
    argv = [name, "--suite", suite, "--from", str(DOCS / suite / "runs.csv"), "--output", str(tmp_path)]
    assert reproduce.main(argv) == 0
    assert (tmp_path / f"{name}.md").read_text(encoding="utf-8") == (DOCS / suite / f"{name}.md").read_text(encoding="utf-8")
