"""Chooses each ZO optimizer's step size on validation images, then runs five seeds of it, at the queries of SharpZO's default.

    python -m tools.maintain.compare_rules screen mezo       # screen.csv: four or five settings, seed 1, a quarter of the queries
    python -m tools.maintain.compare_rules final mezo        # final.csv: the best of them, seeds 1 to 5, all queries
    python -m tools.maintain.compare_rules final sharpzo     # SharpZO with the settings of configs/digits.yaml
    python -m tools.maintain.compare_rules stage1 rge        # stage1.csv: a stage-1 option in SharpZO's default, seeds 1 to 5
    python -m tools.maintain.compare_rules write             # both tables into docs/optimizers-measured.md

The CSVs are in docs/optimizers. Settings are chosen only by accuracy on all 358 validation images of digits; test accuracy is
measured once, at the end of a final run. Existing rows are not rerun, so a list of names can be completed in parts.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

from datasets import DATASETS
from tools.common.samples import difference
from tools.maintain.equal_queries import FOLDER, read
from trainers import TRAINERS
from utils.config import REPOSITORY, load_config
from utils.errors import UserError
from utils.files import write_text

QUERIES = 34_740
# the row of SharpZO with the settings of configs/digits.yaml, in each table
REFERENCE = {"final": "sharpzo", "stage1": "zo"}
SEEDS = (1, 2, 3, 4, 5)
DOCUMENT = REPOSITORY / "docs" / "optimizers-measured.md"
COLUMNS = ("name", "settings", "seed", "queries", "cpu_seconds", "train_loss", "val_accuracy", "test_accuracy")

# four settings each, and a fifth beyond the edge of the grid if the best setting was there
GRIDS = {
    "mezo": [f"zo_lr={lr}" for lr in (0.1, 0.3, 1.0, 3.0)],
    "sparse-mezo": [f"zo_lr={lr}" for lr in (0.1, 0.3, 1.0, 3.0)],
    "cge": [f"zo_lr={lr}" for lr in (1.0, 3.0, 10.0, 30.0)],
    "zo-sign": [f"zo_lr={lr}" for lr in (0.001, 0.003, 0.01, 0.03)],
    "zo-momentum": [f"zo_lr={lr}" for lr in (0.1, 0.3, 1.0, 3.0)],
    "zo-adam": [f"zo_lr={lr}" for lr in (0.001, 0.003, 0.01, 0.03, 0.1)],
    "zo-conservative": [f"zo_lr={lr}" for lr in (0.1, 0.3, 1.0, 3.0)],
    # a pass with one tangent takes most of the time of a pass with sixteen
    "forward-gradient": [f"num_pertub=16 zo_lr={lr}" for lr in (0.3, 1.0, 3.0, 10.0)],
    "lozo": [f"zo_lr={lr}" for lr in (0.1, 0.3, 1.0, 3.0)],
    "polystep": [f"polystep_radius={r} polystep_temperature={t}" for r, t in ((2, 0.02), (2, 0.1), (2, 0.5), (6, 0.1), (6, 0.5))],
    "rank-sgd": [f"zo_lr={lr}" for lr in (0.01, 0.03, 0.1, 0.3, 1.0)],
    "sep-cma": [f"sigma={sigma}" for sigma in (0.1, 0.2, 0.4, 1.0, 2.0)],
    "spsa": [f"spsa_a={a}" for a in (0.03, 0.1, 0.3, 1.0, 3.0)],
}

# changes to SharpZO's default: with the 30 generations of stage 1, or with as many as the queries of those 30 allow
STAGE_1 = {
    "zo": "",
    "none": "smoothness_estimator=none",
    "zo-forward": "smoothness_estimator=zo-forward",
    "rge": "smoothness_estimator=rge",
    "every-5": "smoothness_every=5",
    "jvp": "smoothness_estimator=jvp",
    "focal": "objective=focal",
    "accuracy": "objective=accuracy zo_eps_cge=0.1 zo_eps_rge=0.1 zo_eps_mask=0.1",
    "none-414": "smoothness_estimator=none change_point=414 total_steps=100000",
    "zo-forward-55": "smoothness_estimator=zo-forward change_point=55 total_steps=100000",
    "rge-207": "smoothness_estimator=rge change_point=207 total_steps=100000",
    "every-5-116": "smoothness_every=5 change_point=116 total_steps=100000",
}

# a name for the row, and the arguments of `run`
Job = tuple[str, dict[str, Any]]


def run(name: str, settings: str, seed: int, queries: int, with_test: bool) -> dict[str, object]:
    """Runs the embedded default with the trainer and the `settings` KEY=VALUE …; returns a CSV row, accuracies in percent."""
    import torch

    from datasets.features import FeatureReader
    from trainers.blackbox.samples import Samples
    from trainers.jobs import make_job
    from trainers.loading import load_task
    from trainers.loop import build_optimizer, build_problem, optimize
    from trainers.step_log import StepLog

    chosen = [f"--{setting}" for setting in settings.split()]
    # the default's number of steps is SharpZO's; other optimizers continue until the queries are spent
    steps = [] if TRAINERS[name].two_stages else ["--total_steps=1000000"]
    budget = [f"--prompt_trainer={name}", f"--max_queries={queries}", f"--seed={seed}", "--eval_every=0"]
    config = load_config([*steps, *budget, *chosen], TRAINERS, DATASETS)
    torch.set_num_threads(config.threads)
    config = make_job(config, torch.device("cpu")).config
    task = load_task(config, torch.device("cpu"))
    problem = build_problem(config, task)
    objective = problem.objective
    optimizer = build_optimizer(config, problem)
    # CPU time on one thread is less sensitive to other load
    started = time.process_time()
    w = optimize(optimizer, problem, StepLog(lambda entry: None), max_queries=config.max_queries)
    seconds = round(time.process_time() - started, 1)
    val = FeatureReader(task.dataset, task.backbone, config.batch_size)(task.dataset.val, "val images")
    row = {"name": name, "settings": settings, "seed": seed, "queries": objective.queries, "cpu_seconds": seconds}
    row |= {"train_loss": round(objective.loss_at(w, problem.train), 4)}
    row |= {"val_accuracy": round(100 * objective.accuracy(w, Samples(*val)), 2)}
    return row | {"test_accuracy": round(100 * objective.accuracy(w, problem.test), 2) if with_test else ""}


def work_off(table: str, jobs: Iterator[Job]) -> None:
    """Runs the `jobs` (name, arguments of `run`) that the table lacks, and appends each row when it is finished."""
    path = FOLDER / f"{table}.csv"
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, job in jobs:
        finished = {(row["name"], row["settings"], row["seed"]) for row in read(table)}
        if (name, job["settings"], str(job["seed"])) in finished:
            continue
        row = run(**job) | {"name": name}
        new = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)


def screening(name: str) -> Iterator[Job]:
    for settings in GRIDS[name]:
        yield name, {"name": name, "settings": settings, "seed": 1, "queries": QUERIES // 4, "with_test": False}


def best_settings(name: str) -> str:
    """The screened settings with the highest validation accuracy, the first on ties; "" for SharpZO, which has its own."""
    grid = GRIDS.get(name)
    if not grid:
        return ""
    rows = [row for row in read("screen") if row["name"] == name]
    if len(rows) < len(grid):
        raise UserError(f"{FOLDER / 'screen'}.csv: run python -m tools.maintain.compare_rules screen {name} first")
    return max(rows, key=lambda row: float(row["val_accuracy"]))["settings"]


def finals(name: str, seeds: list[int]) -> Iterator[Job]:
    for seed in seeds:
        yield name, {"name": name, "settings": best_settings(name), "seed": seed, "queries": QUERIES, "with_test": True}


def stage_one(option: str, seeds: list[int]) -> Iterator[Job]:
    for seed in seeds:
        yield option, {"name": "sharpzo", "settings": STAGE_1[option], "seed": seed, "queries": QUERIES, "with_test": True}


def markdown(table: str) -> str:
    """Test accuracy (mean ± sample standard deviation, n), the difference from SharpZO's default, and means; the best first."""
    names = list(dict.fromkeys(row["name"] for row in read(table)))
    rows = {name: [row for row in read(table) if row["name"] == name] for name in names}
    default = REFERENCE[table]

    def mean(name: str, column: str) -> float:
        return statistics.mean(float(row[column]) for row in rows[name])

    def above(name: str) -> str:
        """Paired by seed (same images, same A): mean ± 95% t-interval."""
        ours, theirs = ({row["seed"]: float(row["test_accuracy"]) for row in rows.get(n, ())} for n in (default, name))
        seeds = sorted(ours.keys() & theirs.keys())
        if name == default or len(seeds) < 2:
            return "–"
        figures = difference([theirs[seed] for seed in seeds], [ours[seed] for seed in seeds])
        return f"{figures.mean:+.1f} ± {figures.half:.1f}".replace("-", "−")

    header = (
        "name",
        "settings",
        "test accuracy (%)",
        "n",
        f"above `{default}`",
        "val accuracy (%)",
        "train loss",
        "queries",
        "CPU s",
    )
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name in sorted(names, key=lambda name: -mean(name, "test_accuracy")):
        accuracies = [float(row["test_accuracy"]) for row in rows[name]]
        spread = f" ± {statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
        settings = ", ".join(rows[name][0]["settings"].split()) or "as `configs/digits.yaml`"
        measured = [float(row["cpu_seconds"]) for row in rows[name] if row["cpu_seconds"]]
        seconds = f"{statistics.mean(measured):.0f}" if measured else "–"
        queries = f"{mean(name, 'queries'):,.0f}"
        lines.append(
            f"| `{name}` | {settings} | {mean(name, 'test_accuracy'):.1f}{spread} | {len(accuracies)} | {above(name)} | "
            f"{mean(name, 'val_accuracy'):.1f} | {mean(name, 'train_loss'):.3f} | {queries} | {seconds} |"
        )
    return "\n".join(lines)


def with_tables(document: str) -> str:
    """The `document` with the tables of the CSVs between its markers."""
    for table in ("final", "stage1"):
        before, rest = document.split(f"<!-- {table} -->\n", 1)
        _, after = rest.split("<!-- end -->", 1)
        document = f"{before}<!-- {table} -->\n{markdown(table)}\n<!-- end -->{after}"
    return document


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("screen", "final", "stage1", "write"))
    parser.add_argument("names", nargs="*", help="ZO optimizers, or options of stage 1; empty with write")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    arguments = parser.parse_args()
    known = {
        "screen": [*GRIDS],
        "final": [*GRIDS, "sharpzo", "zo", "cma-es"],
        "stage1": [*STAGE_1],
        "write": [],
    }
    try:
        for name in arguments.names:
            if name not in known[arguments.what]:
                raise UserError(f"{name}: unknown name; use one of {', '.join(known[arguments.what])}")
            if arguments.what == "screen":
                work_off("screen", screening(name))
            elif arguments.what == "final":
                work_off("final", finals(name, arguments.seeds))
            else:
                work_off("stage1", stage_one(name, arguments.seeds))
        if arguments.what == "write":
            write_text(DOCUMENT, with_tables(DOCUMENT.read_text(encoding="utf-8")))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
