"""Searches each method's settings on the icon sets at equal queries, judged on validation pictures.

    python -m tools.maintain.search_settings run                # what is missing; interrupted runs resume
    python -m tools.maintain.search_settings run --dry-run      # the plan
    python -m tools.maintain.search_settings write              # docs/icons/search.csv, and the settings, best first

The runs take configs/budgets/icons-5000.yaml and seeds that no table uses. Six settings of each method, eight of mezo, run on two
sets with seed 101, and the better two of them again with seed 102. They are judged by the cross-entropy on all pictures of the
training and validation lists that the run did not draw (`tools.maintain.held_out`), its mean over sets and seeds; no test picture
takes part.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tools.common.cli import command, make_parser, user_path_text
from tools.common.devices import add_running_options, devices_of
from tools.common.plan import print_commands, print_plan
from tools.common.runner import run_jobs
from tools.common.runs import FinishedRun, Job, flags_of, read_run
from tools.maintain.held_out import HeldOut
from utils.config import REPOSITORY
from utils.errors import UserError
from utils.files import write_text

BUDGET = "configs/budgets/icons-5000.yaml"
TABLE = REPOSITORY / "docs" / "icons" / "search.csv"
SETS = ("icons_emoji", "icons_styles")
# No table has these. The finalists run with the second.
SEEDS = (101, 102)
FINALISTS = 2
# Six settings per method: four, and two beyond the edge of the grid where the best of them was; mezo's best was the last again.
# SharpZO's generations cost 552 queries each, so few of them fit.
GRIDS: dict[str, tuple[str, ...]] = {
    "bbt": (
        *("std=0.1 sigma=0.4", "std=0.1 sigma=1.0", "std=0.3 sigma=0.4", "std=0.3 sigma=1.0"),
        *("std=0.3 sigma=0.2", "std=1.0 sigma=0.4"),
    ),
    "zip": (
        *("spsa_c=0.01 spsa_a=0.1", "spsa_c=0.01 spsa_a=1.0", "spsa_c=0.1 spsa_a=0.1", "spsa_c=0.1 spsa_a=1.0"),
        *("spsa_c=0.01 spsa_a=0.03", "spsa_c=0.003 spsa_a=0.1"),
    ),
    "mezo": tuple(f"zo_lr={rate}" for rate in (0.3, 1.0, 3.0, 10.0, 0.1, 0.03, 0.01, 0.003)),
    "sharpzo": (
        *("change_point=2 zo_lr=0.3", "change_point=2 zo_lr=1.0", "change_point=2 zo_lr=3.0", "change_point=5 zo_lr=1.0"),
        *("change_point=2 zo_lr=0.1", "change_point=2 zo_lr=0.03"),
    ),
}
COLUMNS = ("method", "settings", "dataset", "seed", "queries", "pictures", "val_loss", "val_accuracy", "train_loss")


# method, settings, run
Trial = tuple[str, str, Job]


def trials(chosen: Mapping[str, Sequence[str]], seed: int, output_dir: str) -> Iterator[Trial]:
    """The runs of the `chosen` settings of each method with one seed."""
    for method, every in chosen.items():
        for settings in every:
            for dataset in SETS:
                values = dict(setting.split("=") for setting in settings.split())
                about = {"config": BUDGET, "dataset": dataset, "output_dir": output_dir, "prompt_trainer": method}
                name = "-".join(f"{key}{value}" for key, value in values.items())
                yield method, settings, Job(flags_of(about | {"seed": seed, "run_name": name} | values))


def finalists(screened: Sequence[Trial]) -> dict[str, list[str]]:
    """The better settings of each method whose first runs are all finished."""
    means = judged(rows_of(screened))
    complete = {method for method, _, _ in screened} - {method for method, _, job in screened if job.state != "finished"}
    return {method: sorted(means[method], key=means[method].__getitem__)[:FINALISTS] for method in means if method in complete}


def rows_of(every: Sequence[Trial]) -> list[dict[str, str]]:
    judge = HeldOut()
    runs = [(method, settings, read_run(job.path)) for method, settings, job in every if job.state == "finished"]
    return [row_of(method, settings, run, judge.scores(run)) for method, settings, run in runs]


def row_of(method: str, settings: str, run: FinishedRun, scores: Mapping[str, float]) -> dict[str, str]:
    result = run.result
    row = {"method": method, "settings": settings, "dataset": result["dataset"], "seed": str(result["seed"])}
    row |= {"queries": str(result["queries"]), "pictures": f"{scores['pictures']:.0f}"}
    row |= {"val_accuracy": f"{scores['val_accuracy']:.2f}", "val_loss": f"{scores['val_loss']:.4f}"}
    return row | {"train_loss": f"{result['train_loss']:.4f}"}


def judged(rows: Sequence[Mapping[str, str]]) -> dict[str, dict[str, float]]:
    """The mean held-out cross-entropy by method and setting, over the sets and seeds that the setting has.

    Settings with fewer of them than the method's finalists are left out.
    """
    losses: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        losses.setdefault(row["method"], {}).setdefault(row["settings"], []).append(float(row["val_loss"]))
    found = {}
    for method, by_settings in losses.items():
        most = max(map(len, by_settings.values()))
        found[method] = {one: statistics.mean(values) for one, values in by_settings.items() if len(values) == most}
    return found


def write(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.maintain.search_settings", __doc__)
    parser.add_argument("what", choices=("run", "write"))
    parser.add_argument("--methods", nargs="+", choices=list(GRIDS), default=list(GRIDS))
    parser.add_argument("--output_dir", type=user_path_text, default="outputs/search", help="root of the run folders")
    add_running_options(parser)
    arguments = parser.parse_args(argv)
    screened = list(trials({method: GRIDS[method] for method in arguments.methods}, SEEDS[0], arguments.output_dir))
    if arguments.what == "write":
        every = [*screened, *trials(finalists(screened), SEEDS[1], arguments.output_dir)]
        return report(rows_of(every), arguments.output_dir)
    status = start([job for _, _, job in screened], arguments)
    if status or not (best := finalists(screened)):
        return status
    return start([job for _, _, job in trials(best, SEEDS[1], arguments.output_dir)], arguments)


def start(jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    """Runs the jobs or prints what would run; the exit status."""
    if arguments.print_commands:
        print_commands(jobs)
    elif arguments.dry_run:
        print_plan(jobs, None, devices_of(arguments))
    else:
        return run_jobs(jobs, devices_of(arguments))
    return 0


def report(rows: Sequence[Mapping[str, str]], output_dir: str) -> int:
    """Writes the table and prints the settings of each method, best first."""
    if not rows:
        raise UserError(f"{output_dir}: holds no finished run of this search; start with `run`")
    write(rows, TABLE)
    for method, means in judged(rows).items():
        for settings, loss in sorted(means.items(), key=lambda item: item[1]):
            print(f"{method}: {settings}: held-out cross-entropy {loss:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
