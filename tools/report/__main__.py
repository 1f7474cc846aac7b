"""Writes one self-contained HTML page about a run, or about all runs below a folder.

    python -m tools.report outputs/digits/sharpzo/Mini/16shots/seed1 --output report.html
    python -m tools.report outputs --output sweep.html

A run's page has its curves, confusion matrix, change per class from zero-shot, its worst mistakes as thumbnails, the time of each
phase, and the settings that differ from the defaults. A folder's page has means with intervals, curves with bands, and the runs
that did not finish. The page loads nothing, so it opens without a network.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from tools.common.cli import command, make_parser, user_path
from tools.common.plotting import require_matplotlib
from tools.common.runs import find_runs, read_run
from utils.errors import UserError
from utils.files import write_text

TEMPLATE = "page.html.jinja"


def render(page: dict[str, Any]) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    return environment.get_template(TEMPLATE).render(page)


def page_of(folder: Path, root_path: str | None) -> dict[str, Any]:
    """The template's variables for a run folder or a folder of runs. Raises UserError if there is not a finished run."""
    from tools.report.run import run_page
    from tools.report.sweep import sweep_page

    if (folder / "result.json").is_file():
        return run_page(read_run(folder), root_path)
    runs, unfinished = find_runs([folder])
    if not runs and not unfinished:
        raise UserError(f"{folder}: not a run folder, and holds none; give what main_sharpzo.py or tools.sweep wrote")
    return sweep_page(folder, runs, unfinished)


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.report", __doc__)
    parser.add_argument("folder", type=user_path, metavar="RUN|SWEEP", help="a run folder, or a folder of runs at any depth")
    parser.add_argument("--output", type=user_path, required=True, metavar="FILE")
    parser.add_argument("--root_path", help="where the dataset is; default: where the run found it")
    arguments = parser.parse_args(argv)
    require_matplotlib()
    if importlib.util.find_spec("jinja2") is None:
        raise UserError("reports need jinja2; pip install -e '.[docs]' in the clone brings it")
    text = render(page_of(arguments.folder, arguments.root_path))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.output, text)
    print(f"{arguments.output} ({len(text.encode()) / 1e6:.2f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
