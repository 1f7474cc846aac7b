"""Draws README's figure: test accuracy against queries, one curve per method, with its 95% t-interval over seeds.

    python -m tools.maintain.front_figure outputs/front --output docs/front.png

`outputs/front` holds the runs of one dataset; README has the commands that make them.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tools.common.cli import command, make_parser, user_path
from tools.common.names import title
from tools.common.plotting import finish, require_matplotlib, start
from tools.common.runs import FinishedRun, find_runs
from tools.common.samples import sample
from trainers import TRAINERS
from utils.errors import UserError

# points of a curve; runs of different methods log at different queries
POINTS = 80
OURS = ("sharpzo", "sharpzo+")


def by_method(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Runs that tuned something, the best method last so that its curve lies on top.

    Raises UserError if there are none, or runs of several datasets.
    """
    found: dict[str, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        if run.result["queries"]:
            found[TRAINERS.canonical(run.result["trainer"])].append(run)
    names = {run.result["dataset"] for of_method in found.values() for run in of_method}
    if len(names) != 1:
        raise UserError(f"the figure shows one dataset; the runs that tuned a prompt are of {', '.join(sorted(names)) or 'none'}")
    return dict(sorted(found.items(), key=lambda item: np.mean([run.result["test_accuracy"] for run in item[1]])))


def draw(methods: Mapping[str, Sequence[FinishedRun]], output: Path) -> Path:
    figure, axes = start(figsize=(8.0, 4.2))
    zero_shot = next(iter(methods.values()))[0].result["zero_shot_accuracy"]
    for number, (name, runs) in enumerate(methods.items()):
        curves = [run.curve("queries", "test_accuracy") for run in runs]
        # before the first evaluation there is only zero-shot, at 0 queries
        first, last = max(x[1] for x, _ in curves), min(x[-1] for x, _ in curves)
        grid = np.linspace(first, last, POINTS)
        samples = [sample(values) for values in np.array([np.interp(grid, x, y) for x, y in curves]).T.tolist()]
        means, halves = (np.array([getattr(one, part) for one in samples]) for part in ("mean", "half"))
        label, width = f"{title(name)} (n = {len(runs)})", 2.4 if name in OURS else 1.3
        (line,) = axes.plot(grid, means, label=label, linewidth=width, color=f"C{number}")
        if len(runs) > 1:
            axes.fill_between(grid, means - halves, means + halves, alpha=0.15, color=line.get_color(), linewidth=0)
    axes.axhline(zero_shot, color="black", linewidth=1.0, linestyle="--", label="Zero-shot")
    axes.set_xlabel("queries")
    axes.set_ylabel("test accuracy (%)")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    # from the highest curve down, zero-shot last
    order = [*range(len(handles) - 2, -1, -1), len(handles) - 1]
    axes.legend([handles[i] for i in order], [labels[i] for i in order], fontsize="small", loc="lower right")
    return finish(figure, output)


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.maintain.front_figure", __doc__)
    parser.add_argument("runs", type=user_path, nargs="+", metavar="RUN", help="run folders, or folders of runs at any depth")
    parser.add_argument("--output", type=user_path, required=True, metavar="FILE")
    arguments = parser.parse_args(argv)
    require_matplotlib()
    runs, _ = find_runs(arguments.runs)
    print(draw(by_method(runs), arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
