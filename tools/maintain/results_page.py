"""Puts the tables of docs/icons into the pages of results, between the markers that name them.

python -m tools.summarize RUNS --csv docs/icons/runs.csv
python -m tools.reproduce claims equal parts transfer dimensions table1 table5 table6 table7 base2new shots --suite icons \\
    --from docs/icons/runs.csv --output docs/icons
python -m tools.maintain.results_page
"""

from __future__ import annotations

import re
import sys

from tools.common.cli import command, make_parser
from utils.config import REPOSITORY
from utils.errors import UserError
from utils.files import write_text

PAGES = tuple(REPOSITORY / "docs" / name for name in ("results.md", "results-by-set.md", "results-ablations.md"))
MADE = REPOSITORY / "docs" / "icons"
PLACE = re.compile(r"<!-- (first table of )?(\w+) -->\n.*?<!-- end -->", re.DOTALL)


def with_tables(text: str) -> str:
    """The page with docs/icons/NAME.md between `<!-- NAME -->`, or `<!-- first table of NAME -->`, and `<!-- end -->`.

    UserError where a file is missing.
    """

    def fill(found: re.Match[str]) -> str:
        first, name = found[1] or "", found[2]
        path = MADE / f"{name}.md"
        if not path.is_file():
            raise UserError(f"{path}: is missing; make it with tools.reproduce {name} --suite icons --output docs/icons")
        text = path.read_text(encoding="utf-8")
        if first:
            text = text.partition("\n### ")[0]
        return f"<!-- {first}{name} -->\n{text.strip()}\n<!-- end -->"

    return PLACE.sub(fill, text)


@command
def main(argv: list[str]) -> int:
    make_parser("tools.maintain.results_page", __doc__).parse_args(argv)
    texts = {page: with_tables(page.read_text(encoding="utf-8")) for page in PAGES}
    for page, text in texts.items():
        write_text(page, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
