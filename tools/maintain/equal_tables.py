"""Writes docs/optimizers-measured.md's tables and figure of optimizers at equal queries from docs/optimizers/equal.csv.

    python -m tools.maintain.equal_tables

A difference is one number per seed, the mean over the sets of two accuracies' difference at that seed: sets of one backbone share
A at a seed, so that their differences are not independent. It is about these sets and no others. p-values of one table are
corrected by Holm.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from tools.common.cli import command, make_parser
from tools.common.plotting import finish, require_matplotlib, start
from tools.common.samples import Sample, difference, grouped, paired_p, sample
from tools.common.verdicts import LEVEL, average_ranks, holm
from tools.maintain.equal_queries import ABLATIONS, BUDGETS, FOLDER, PLUS, SETS, WITHOUT, read
from trainers import TRAINERS
from utils.config import REPOSITORY
from utils.errors import UserError
from utils.files import write_text

DOCUMENT = REPOSITORY / "docs" / "optimizers-measured.md"
REFERENCE = "sharpzo"
# fixed, with the names to run, before the first of their runs; earlier seeds were added after a look at others
PLANNED = range(11, 21)

# accuracies by name, set and seed
Accuracies = Mapping[str, Mapping[str, Mapping[int, float]]]


def accuracies(budget: int, seeds: Container[int] | None = None) -> dict[str, dict[str, dict[int, float]]]:
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in read("equal"):
        if row["budget"] == str(budget) and (seeds is None or int(row["seed"]) in seeds):
            found.setdefault(row["name"], {}).setdefault(row["set"], {})[int(row["seed"])] = float(row["test_accuracy"])
    return found


def differences(found: Accuracies, reference: str) -> dict[str, Sample]:
    """Of every other name from the reference, in the mean over the sets that both have.

    Over the seeds that both have on each of these sets; names with fewer than two of them are left out.
    """
    results = {}
    for name in found:
        sets = [dataset for dataset in SETS if dataset in found[name] and dataset in found.get(reference, {})]
        if name == reference or not sets:
            continue
        seeds = sorted(set.intersection(*(set(found[key][dataset]) for key in (name, reference) for dataset in sets)))
        if len(seeds) > 1:
            means = [[statistics.mean(found[key][one][seed] for one in sets) for seed in seeds] for key in (name, reference)]
            results[name] = difference(*means)
    return results


def ranks_of(found: Accuracies) -> dict[str, float]:
    """Average over the sets of each name's rank by mean accuracy, 1 the best, among the names that are on every set."""
    means = {
        name: [statistics.mean(by_set[dataset].values()) for dataset in SETS]
        for name, by_set in found.items()
        if all(dataset in by_set for dataset in SETS)
    }
    return average_ranks(means).averages if len(means) > 2 else {}


def against(found: Accuracies, reference: str, sign: int = 1) -> dict[str, str]:
    """By name: `sign` times its difference from the reference, ± the 95% interval, and what Holm's correction leaves of it."""
    apart = differences(found, reference)
    corrected = dict(zip(apart, holm([paired_p(figures) for figures in apart.values()]), strict=True))
    shown = {}
    for name, figures in apart.items():
        p, mean = corrected[name], sign * figures.mean
        verdict = "undecided" if p >= LEVEL else "above" if mean > 0 else "below"
        figure = f"{mean:+.1f} ± {figures.half:.1f}".replace("-", "−")
        shown[name] = f"{figure}, {verdict} ({f'p = {p:.3f}' if p >= 0.001 else 'p < 0.001'})"
    return shown


def table(budget: int) -> str:
    """Markdown: names on more sets first, then by mean accuracy over their sets."""
    found = {name: by_set for name, by_set in accuracies(budget).items() if not name.startswith(WITHOUT)}
    rows = [row for row in read("equal") if row["budget"] == str(budget)]
    from_sharpzo, below_ours, ranks = against(found, REFERENCE), against(found, PLUS, -1), ranks_of(found)
    header = ["name", "settings", *SETS, "n", "mean rank", f"above `{REFERENCE}`", f"`{PLUS}` above it", "CPU s"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name in sorted(found, key=lambda name: (-len(found[name]), -overall(found[name]))):
        own = [row for row in rows if row["name"] == name]
        settings = "its defaults" if name == PLUS else ", ".join(own[0]["settings"].split())
        counts = "/".join(str(len(found[name].get(dataset, ()))) for dataset in SETS)
        rank = f"{ranks[name]:.1f}" if name in ranks else "–"
        compared = [from_sharpzo.get(name, "–"), below_ours.get(name, "–")]
        seconds = "/".join(f"{seconds_of(own, dataset):.0f}" if dataset in found[name] else "–" for dataset in SETS)
        lines.append(f"| {' | '.join([f'`{name}`', settings, *cells(found[name]), counts, rank, *compared, seconds])} |")
    without = accuracies(0)
    lines.append(f"| **references on features, without prompts** {'|' * len(header)}")
    for name in without:
        counts = "/".join(str(len(without[name].get(dataset, ()))) for dataset in SETS)
        lines.append(f"| {' | '.join([f'`{name}`', 'its defaults', *cells(without[name]), counts, '–', '–', '–', '–'])} |")
    return "\n".join(lines)


def planned() -> str:
    """Markdown: the smaller budget on PLANNED seeds alone, the highest mean first."""
    found = accuracies(BUDGETS[0], PLANNED)
    from_sharpzo, below_ours = against(found, REFERENCE), against(found, PLUS, -1)
    lines = [f"| name | {' | '.join(SETS)} | above `{REFERENCE}` | `{PLUS}` above it |", "|---" * (len(SETS) + 3) + "|"]
    for name in sorted(found, key=lambda name: -overall(found[name])):
        compared = [from_sharpzo.get(name, "–"), below_ours.get(name, "–")]
        lines.append(f"| {' | '.join([f'`{name}`', *cells(found[name]), *compared])} |")
    return "\n".join(lines)


def ablations() -> str:
    """Markdown: sharpzo+ without each of its parts, at the smaller budget, on the sets that were run."""
    found = {name: by_set for name, by_set in accuracies(BUDGETS[0]).items() if name.startswith(PLUS)}
    compared = against(found, PLUS)
    lines = [f"| name | changed | {' | '.join(SETS)} | above `{PLUS}` |", "|---" * (len(SETS) + 3) + "|"]
    for name in sorted(found, key=lambda name: name != PLUS):
        changed = ABLATIONS.get(name.removeprefix(WITHOUT), "–").replace(" ", ", ")
        lines.append(f"| `{name}` | {changed} | {' | '.join(cells(found[name]))} | {compared.get(name, '–')} |")
    return "\n".join(lines)


def overall(by_set: Mapping[str, Mapping[int, float]]) -> float:
    return statistics.mean(statistics.mean(values.values()) for values in by_set.values())


def cells(by_set: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Mean accuracy ± 95% t-interval on each set."""
    samples = [sample(list(by_set[dataset].values())) if dataset in by_set else None for dataset in SETS]
    return ["–" if s is None else f"{s.mean:.1f}" if s.n == 1 else f"{s.mean:.1f} ± {s.half:.1f}" for s in samples]


def seconds_of(rows: Sequence[Mapping[str, str]], dataset: str) -> float:
    return statistics.mean(float(row["cpu_seconds"]) for row in rows if row["set"] == dataset)


def draw(output: Path) -> Path:
    """Mean accuracy per set, against queries above and CPU seconds below, with 95% intervals over seeds.

    Of the names that were measured at two budgets or more.
    """
    require_matplotlib()
    found = {budget: accuracies(budget) for budget in BUDGETS}
    rows = read("equal")
    names = [name for name in found[BUDGETS[0]] if sum(name in found[budget] for budget in BUDGETS) > 1]
    figure, panels = start(nrows=2, ncols=len(SETS), figsize=(9.6, 6.0), squeeze=False, sharey="col")
    for column, dataset in enumerate(SETS):
        run = [budget for budget in BUDGETS if any(dataset in by_set for by_set in found[budget].values())]
        for number, name in enumerate(names):
            own = [budget for budget in BUDGETS if dataset in found[budget].get(name, {})]
            samples = [sample(list(found[budget][name][dataset].values())) for budget in own]
            of_name = [[row for row in rows if row["name"] == name and row["budget"] == str(budget)] for budget in own]
            seconds = [seconds_of(part, dataset) for part in of_name]
            shifted = [budget * 1.04 ** (number - len(names) / 2) for budget in own]
            for row, places in enumerate((shifted, seconds)):
                panels[row][column].errorbar(
                    places,
                    [figures.mean for figures in samples],
                    [figures.half for figures in samples],
                    marker="osD^vPX*<>"[number % 10],
                    color=f"C{number % 10}",
                    linewidth=2.0 if name.startswith("sharpzo") else 0.9,
                    markersize=4,
                    capsize=2,
                    label=TRAINERS[name].title,
                )
        panels[0][column].set_title(dataset, fontsize="medium")
        panels[0][column].set_xscale("log")
        panels[0][column].set_xticks(run, [grouped(budget) for budget in run])
        panels[0][column].set_xlim(0.7 * run[0], 1.4 * run[-1])
        panels[0][column].minorticks_off()
        panels[0][column].set_xlabel("queries")
        panels[1][column].set_xlim(left=0)
        panels[1][column].set_xlabel("CPU seconds")
        for row in range(2):
            panels[row][column].grid(alpha=0.3)
    for row in range(2):
        panels[row][0].set_ylabel("test accuracy (%)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    return finish(figure, output)


def between(document: str, marker: str, text: str) -> str:
    """The document with `text` between <!-- marker --> and the next <!-- end -->."""
    if f"<!-- {marker} -->\n" not in document:
        raise UserError(f"{DOCUMENT}: the marker <!-- {marker} --> is missing; add it, and <!-- end --> below it")
    before, rest = document.split(f"<!-- {marker} -->\n", 1)
    _, after = rest.split("<!-- end -->", 1)
    return f"{before}<!-- {marker} -->\n{text}\n<!-- end -->{after}"


def generated() -> dict[str, str]:
    """What stands between the document's markers."""
    by_budget = {f"equal {budget}": table(budget) for budget in BUDGETS if accuracies(budget)}
    return by_budget | {"planned": planned(), "ablations": ablations()}


@command
def main(argv: list[str]) -> int:
    make_parser("tools.maintain.equal_tables", __doc__).parse_args(argv)
    document = DOCUMENT.read_text(encoding="utf-8")
    for marker, text in generated().items():
        document = between(document, marker, text)
    write_text(DOCUMENT, document)
    draw(FOLDER / "equal.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
