"""The tables in the documents are the ones that the commands beside them made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.reproduce import __main__ as reproduce
from utils.config import REPOSITORY

DOCS = REPOSITORY / "docs"


@pytest.mark.parametrize("made", sorted((DOCS / "mini").glob("*.md")), ids=lambda path: path.stem)
def test_made_tables_stand_in_a_document_as_they_are(made: Path) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", made.read_text(), re.MULTILINE)
    assert tables
    documents = [path.read_text() for path in DOCS.glob("*.md")]
    for table in tables:
        assert any(table in document for document in documents), table.splitlines()[0]


def test_pictures_that_documents_show_are_there_and_no_others() -> None:
    texts = {path: path.read_text() for path in (*DOCS.glob("*.md"), REPOSITORY / "README.md")}
    shown = {
        (path.parent / name).resolve() for path, text in texts.items() for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    }
    assert shown == {path.resolve() for path in DOCS.rglob("*.png")}


@pytest.mark.parametrize(("name", "part"), [("table1", []), ("table7", []), ("cross", [])])
def test_tables_are_those_of_the_recorded_runs(name: str, part: list[str], tmp_path: Path) -> None:
    argv = [name, "--suite", "mini", "--from", str(DOCS / "mini" / "runs.csv"), "--output", str(tmp_path), *part]
    assert reproduce.main(argv) == 0
    assert (tmp_path / f"{name}.md").read_text(encoding="utf-8") == (DOCS / "mini" / f"{name}.md").read_text(encoding="utf-8")
