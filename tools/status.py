"""Lists the runs below a folder: finished, running, interrupted.

    python -m tools.status outputs
    python -m tools.status outputs --unfinished

Exit status: 0 all runs are finished, 3 some are not, 2 invalid arguments.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

from tools.common.cli import command, make_parser, user_path
from tools.common.plan import duration
from tools.common.runs import is_running, run_folders
from tools.common.samples import grouped
from tools.common.tables import Table
from utils.errors import UserError
from utils.replay import METRICS


def state_of(folder: Path) -> str:
    """ "finished", "running" (a process holds its lock) or "interrupted"."""
    if (folder / "result.json").is_file():
        return "finished"
    return "running" if is_running(folder) else "interrupted"


def row_of(folder: Path, state: str, now: float) -> list[str]:
    """State, test accuracy, last logged step and queries, time since the last write, folder."""
    accuracy = "–"
    if state == "finished":
        accuracy = f"{_read_json(folder / 'result.json').get('test_accuracy', float('nan')):.2f}"
    last = _last_metrics(folder / METRICS)
    step, queries = (grouped(last[key]) if key in last else "–" for key in ("step", "queries"))
    written = max((path.stat().st_mtime for path in folder.iterdir()), default=now)
    return [state, accuracy, step, queries, f"{duration(max(0.0, now - written))} ago", str(folder)]


def _last_metrics(path: Path) -> dict[str, float]:
    """The last complete line of metrics.jsonl; {} without one."""
    if not path.is_file():
        return {}
    for line in reversed(path.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        return found if isinstance(found, dict) else {}
    return {}


def _read_json(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: must hold a mapping")
    return found


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.status", __doc__)
    parser.add_argument("folders", type=user_path, nargs="+", help="folders of runs, at any depth")
    parser.add_argument("--unfinished", action="store_true", help="list only runs that are not finished")
    arguments = parser.parse_args(argv)
    states = {folder: state_of(folder) for folder in run_folders(arguments.folders)}
    if not states:
        raise UserError(f"{', '.join(map(str, arguments.folders))}: no run found (no config.yaml at any depth)")
    shown = [(folder, state) for folder, state in states.items() if state != "finished" or not arguments.unfinished]
    now = time.time()
    table = Table("Runs", ["state", "test accuracy (%)", "step", "queries", "last write", "folder"])
    table.rows += [row_of(folder, state, now) for folder, state in shown]
    if table.rows:
        print(table.plain())
    counts = Counter(states.values())
    print(f"{len(states)} runs: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    return 0 if counts["finished"] == len(states) else 3


if __name__ == "__main__":
    sys.exit(main())
