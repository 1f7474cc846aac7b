"""Every optimizer of the projected prompt at equal queries on several sets: settings by validation, then paired seeds.

    python -m tools.maintain.equal_queries choose mezo fzoo             # choice.csv: the settings of GRIDS, seed 101
    python -m tools.maintain.equal_queries measure mezo --queries 5000  # equal.csv: the best of them, seeds 1 to 5
    python -m tools.maintain.equal_tables                               # tables and figure of docs/optimizers-measured.md

The CSVs are in docs/optimizers. Each name has four settings and, where the best of them is at the edge of its ladder, a fifth
beyond it; sharpzo has nine. One setting per name is used on all sets and at all budgets: the one with the lowest validation loss
at 5,000 queries, mean over CHOICE_SETS, at a seed that no table has. Rows that exist are not run again. A run that passes several
budgets is scored at each, unless its path depends on the budget.
"""

from __future__ import annotations

import csv
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tools.common.cli import command, make_parser
from utils.config import REPOSITORY
from utils.errors import UserError

FOLDER = REPOSITORY / "docs" / "optimizers"
SETS = ("digits", "icons_emoji", "icons_styles")
# icons_styles has no part in any choice
CHOICE_SETS = ("digits", "icons_emoji")
CHOICE_SEED = 101
CHOICE_BUDGET = 5000
SEEDS = (1, 2, 3, 4, 5)
BUDGETS = (5000, 20_000, 100_000)
COLUMNS = ("name", "set", "budget", "settings", "seed", "queries", "cpu_seconds", "train_loss", "val_loss", "val_accuracy")
TEST_COLUMNS = ("test_loss", "test_accuracy")
# shared by all: configs/digits.yaml's, from a search for SharpZO
SHARED = ("--intrinsic_dim=256", "--std=0.1", "--total_steps=1000000", "--threads=1")
# its schedule follows the budget; settings from a search of its own on CHOICE_SETS, seeds 101 and 102
PLUS = "sharpzo+"
PLUS_SETTINGS = "warmup_share=0.2 zo_lr=0.2 prune_interval=40"
# one part of it each time: rows "sharpzo+ without …"
ABLATIONS = {
    "warm-up": "warmup_share=0",
    "shift": "rho=0",
    "mask": "prune_ratio=0",
    "schedule": "zo_schedule=constant",
    "adam": "zo_update=sgd zo_lr=10",
    "many probes": "probes=1",
}
WITHOUT = f"{PLUS} without "
# no prompts and no queries: --queries 0
REFERENCES = ("tip-adapter", "linear-probe")

# ascending values of a setting, and where the four of a name start
STEPS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
SIGMAS = (0.05, 0.1, 0.2, 0.4, 1.0, 2.0)
RADII = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
LADDERS: Mapping[str, tuple[str, Sequence[float], float]] = {
    "bbt": ("sigma={}", SIGMAS, 0.1),
    "sep-cma": ("sigma={}", SIGMAS, 0.1),
    "plain-cma": ("sigma={}", SIGMAS, 0.1),
    "mezo": ("zo_lr={}", STEPS, 0.1),
    "sparse-mezo": ("zo_lr={}", STEPS, 0.1),
    "cge": ("zo_lr={}", STEPS, 1.0),
    "zo-sign": ("zo_lr={}", STEPS, 0.001),
    "zo-momentum": ("zo_lr={}", STEPS, 0.1),
    "zo-adam": ("zo_lr={}", STEPS, 0.01),
    "zo-conservative": ("zo_lr={}", STEPS, 0.1),
    "polystep": ("polystep_temperature=0.1 polystep_radius={}", RADII, 1.0),
    "rank-sgd": ("zo_lr={}", STEPS, 0.01),
    "spsa": ("spsa_a={}", STEPS, 0.1),
    "adam-cge": ("zo_lr={}", STEPS, 0.03),
    "lbfgs": ("zo_eps_cge={}", STEPS, 0.0001),
    "openai-es": ("sigma=0.1 zo_lr={}", STEPS, 0.03),
    "fzoo": ("zo_lr={}", STEPS, 0.01),
    "r-adazo": ("zo_lr={}", STEPS, 0.001),
    "conmezo": ("zo_lr={}", STEPS, 0.1),
    "curvzo": ("zo_lr={}", STEPS, 0.03),
    "zoar": ("zo_lr={}", STEPS, 0.0003),
    "guided-es": ("zo_lr={}", STEPS, 0.1),
    "zosa": ("zo_lr={}", STEPS, 0.01),
    "zest": ("zo_lr={}", STEPS, 0.3),
    "loren": ("zo_lr={}", STEPS, 0.01),
    "bszo": ("zo_lr={}", STEPS, 0.1),
}
NUMBER = 4


class Row(NamedTuple):
    """What identifies a measurement; all as text, as in the CSV."""

    name: str
    set: str
    budget: str
    settings: str
    seed: str


def grid(name: str) -> list[str]:
    """The four settings of a name; nine of sharpzo, which has two to set."""
    if name == "sharpzo":
        return [f"change_point={point} zo_lr={lr}" for point in (2, 3, 6) for lr in (0.03, 0.1, 0.3)]
    pattern, ladder, first = LADDERS[name]
    start = ladder.index(first)
    return [pattern.format(value) for value in ladder[start : start + NUMBER]]


def beyond(name: str, best: str) -> str | None:
    """The setting beyond the best one of a ladder if that is the first or last of the four."""
    if name not in LADDERS:
        return None
    pattern, ladder, first = LADDERS[name]
    start = ladder.index(first)
    edges = {pattern.format(ladder[start]): start - 1, pattern.format(ladder[start + NUMBER - 1]): start + NUMBER}
    neighbor = edges.get(best, -1)
    return pattern.format(ladder[neighbor]) if 0 <= neighbor < len(ladder) else None


class Tasks:
    """The few-shot task of a set and seed, the last one kept, since loading takes longer than some runs."""

    def __init__(self) -> None:
        self.held: tuple[str, int] | None = None

    def __call__(self, dataset: str, seed: int) -> tuple[Any, Any]:
        """The task, and all validation images of the set."""
        import torch

        from datasets.features import FeatureReader
        from trainers.blackbox.samples import Samples
        from trainers.loading import load_task

        if self.held != (dataset, seed):
            config = configured(dataset, "mezo", "", seed, 0)
            self.task = load_task(config, torch.device("cpu"))
            reader = FeatureReader(self.task.dataset, self.task.backbone, config.batch_size)
            self.val = Samples(*reader(self.task.dataset.val, "val images"))
            self.held = dataset, seed
        return self.task, self.val


def configured(dataset: str, name: str, settings: str, seed: int, budget: int) -> Any:
    import torch

    from datasets import DATASETS
    from trainers import TRAINERS
    from trainers.jobs import make_job
    from utils.config import load_config

    trainer = PLUS if name.startswith(PLUS) else name
    chosen = [f"--{setting}" for setting in settings.split()]
    run = [
        f"--config={REPOSITORY}/configs/{dataset}.yaml",
        f"--prompt_trainer={trainer}",
        f"--seed={seed}",
        f"--max_queries={budget}",
    ]
    config = load_config([*run, *SHARED, *chosen], TRAINERS, DATASETS)
    torch.set_num_threads(config.threads)
    return make_job(config, torch.device("cpu")).config


def run(
    tasks: Tasks, name: str, dataset: str, settings: str, seed: int, budgets: Sequence[int], test: bool
) -> Iterator[dict[str, Any]]:
    """Rows of one run, scored before the step that would exceed each of the ascending budgets."""
    from trainers.loop import build_optimizer, build_problem

    task, val = tasks(dataset, seed)
    config = configured(dataset, name, settings, seed, budgets[-1])
    problem = build_problem(config, task)
    objective, optimizer = problem.objective, build_optimizer(config, problem)
    # CPU time on one thread is less sensitive to other load
    seconds, steps = 0.0, 0
    for budget in budgets:
        started = time.process_time()
        while steps < problem.steps and objective.queries + optimizer.num_queries(1) <= budget:
            optimizer.step(objective)
            steps += 1
        seconds += time.process_time() - started
        w = optimizer.solution.clone()
        row = Row(name, dataset, str(budget), settings, str(seed))._asdict()
        row |= {"queries": objective.queries, "cpu_seconds": round(seconds, 1)}
        row |= {"train_loss": round(objective.loss_at(w, problem.train), 4), "val_loss": round(objective.loss_at(w, val), 4)}
        row |= {"val_accuracy": round(100 * objective.accuracy(w, val), 2)}
        if test:
            row |= {"test_loss": round(objective.loss_at(w, problem.test), 4)}
            row |= {"test_accuracy": round(100 * objective.accuracy(w, problem.test), 2)}
        yield row


def read(table: str) -> list[dict[str, str]]:
    path = FOLDER / f"{table}.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def append(table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    path, columns = FOLDER / f"{table}.csv", (*COLUMNS, *(TEST_COLUMNS if table == "equal" else ()))
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def work_off(tasks: Tasks, table: str, name: str, dataset: str, settings: str, seed: int, budgets: Sequence[int]) -> None:
    """Runs what the table lacks of these budgets."""
    finished = {tuple(row[key] for key in Row._fields) for row in read(table)}
    missing = [budget for budget in budgets if Row(name, dataset, str(budget), settings, str(seed)) not in finished]
    for together in [[budget] for budget in missing] if name.startswith(PLUS) else [missing] if missing else []:
        rows = list(run(tasks, name, dataset, settings, seed, together, test=table == "equal"))
        append(table, rows)
        for row in rows:
            print(*row.values(), flush=True)


def choose(names: Sequence[str]) -> None:
    """Runs the grids, then what lies beyond them."""
    tasks = Tasks()
    for dataset in CHOICE_SETS:
        for name in names:
            for settings in grid(name):
                work_off(tasks, "choice", name, dataset, settings, CHOICE_SEED, [CHOICE_BUDGET])
    for dataset in CHOICE_SETS:
        for name in names:
            further = beyond(name, lowest(name, grid(name)))
            if further:
                work_off(tasks, "choice", name, dataset, further, CHOICE_SEED, [CHOICE_BUDGET])


def lowest(name: str, among: Sequence[str] = ()) -> str:
    """The settings, any or `among` these, of the lowest validation loss, mean over CHOICE_SETS; the first among equals."""
    losses: dict[str, dict[str, float]] = {}
    for row in read("choice"):
        if row["name"] == name and row["budget"] == str(CHOICE_BUDGET) and (not among or row["settings"] in among):
            losses.setdefault(row["settings"], {})[row["set"]] = float(row["val_loss"])
    complete = {settings: by_set for settings, by_set in losses.items() if len(by_set) == len(CHOICE_SETS)}
    if len(complete) < NUMBER:
        raise UserError(f"{FOLDER / 'choice.csv'}: run python -m tools.maintain.equal_queries choose {name} first")
    return min(complete, key=lambda settings: statistics.mean(complete[settings].values()))


def best_settings(name: str, budget: int) -> str:
    """Those chosen at CHOICE_BUDGET; a change point moves to the same share of another budget."""
    if name.startswith(PLUS):
        return " ".join([PLUS_SETTINGS, ABLATIONS.get(name.removeprefix(WITHOUT), "")]).strip()
    if name in REFERENCES:
        return ""
    parts = lowest(name).split()
    if name == "sharpzo":
        parts[0] = f"change_point={int(parts[0].partition('=')[2]) * budget // CHOICE_BUDGET}"
    return " ".join(parts)


def measure(names: Sequence[str], budgets: Sequence[int], sets: Sequence[str], seeds: Sequence[int]) -> None:
    tasks = Tasks()
    for dataset in sets:
        for seed in seeds:
            for name in names:
                by_settings: dict[str, list[int]] = {}
                for budget in budgets:
                    by_settings.setdefault(best_settings(name, budget), []).append(budget)
                for settings, of_budget in by_settings.items():
                    work_off(tasks, "equal", name, dataset, settings, seed, of_budget)


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.maintain.equal_queries", __doc__)
    parser.add_argument("what", choices=("choose", "measure"))
    parser.add_argument("names", nargs="*", help="trainers; all without any")
    parser.add_argument("--queries", type=int, nargs="+", default=[BUDGETS[0]], help="for measure")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="for measure")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="for measure")
    arguments = parser.parse_args(argv)
    known = ["sharpzo", *LADDERS]
    if arguments.what == "measure":
        known += [PLUS, *(WITHOUT + part for part in ABLATIONS), *REFERENCES]
    for name in arguments.names:
        if name not in known:
            raise UserError(f"{name}: unknown name; use some of {', '.join(known)}")
    names, budgets = arguments.names or known, sorted(set(arguments.queries))
    if arguments.what == "choose":
        choose(names)
    else:
        measure(names, budgets, arguments.sets, arguments.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
