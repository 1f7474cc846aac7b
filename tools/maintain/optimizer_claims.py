"""SharpZO against every other optimizer of docs/optimizers/equal.csv, judged like the claims of tools.reproduce.

python -m tools.maintain.optimizer_claims        # docs/icons/optimizers.md
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tools.common.claims import Claim, full_table, judged, short_table
from tools.common.cli import command, make_parser
from tools.common.names import OURS, title
from tools.common.samples import Sample, difference
from tools.common.tables import Table
from tools.maintain.equal_queries import WITHOUT
from utils.config import REPOSITORY
from utils.files import write_text

RECORDED = REPOSITORY / "docs" / "optimizers" / "equal.csv"
OUTPUT = REPOSITORY / "docs" / "icons" / "optimizers.md"
BUDGET = 5000
MEASURES = ("test_accuracy", "train_loss", "test_loss")

# by name and set: each measure by seed
Measured = dict[tuple[str, str], dict[str, dict[str, float]]]


def read(path: Path) -> Measured:
    found: Measured = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["budget"]) == BUDGET and not row["name"].startswith(WITHOUT):
                for key in MEASURES:
                    found.setdefault((row["name"], row["set"]), {}).setdefault(key, {})[row["seed"]] = float(row[key])
    return found


def paired(measured: Measured, sets: Sequence[str], name: str, key: str) -> Sample | None:
    """SharpZO − `name`, by seed, in the mean over `sets`; None below two seeds that all of them have."""
    pairs: list[tuple[Mapping[str, float], Mapping[str, float]]] = [
        (measured.get((OURS, one), {}).get(key, {}), measured.get((name, one), {}).get(key, {})) for one in sets
    ]
    seeds = sorted(set.intersection(*(ours.keys() & theirs.keys() for ours, theirs in pairs)))
    if len(seeds) < 2:
        return None
    first, second = ([sum(pair[side][seed] for pair in pairs) / len(sets) for seed in seeds] for side in (0, 1))
    return difference(first, second)


def claims(measured: Measured) -> Iterator[Claim]:
    """For each rival, one per set and one for the mean over sets; a rival's are a family of Holm's correction."""
    sets = list(dict.fromkeys(one for name, one in measured if name == OURS))
    for name in dict.fromkeys(name for name, _ in measured if name != OURS):
        for where, members in [*((one, (one,)) for one in sets), (f"mean of {len(sets)} sets", tuple(sets))]:
            accuracy, *losses = (paired(measured, members, name, key) for key in MEASURES)
            yield Claim(f"SharpZO above {title(name)}", where, accuracy, tuple(losses), sets=len(members))


def tables(measured: Measured) -> list[Table]:
    """One row per rival, then one per rival and set."""
    known, heading = judged(list(claims(measured))), f"SharpZO against other optimizers, {BUDGET:,} queries"
    short = short_table(heading, known)
    short.notes.append(
        "Paired by seed, mean ± 95% t-interval; verdicts after Holm's correction over the rows of a rival: on accuracy, and "
        "on the training cross-entropy, where SharpZO is better if the difference is negative."
    )
    return [short, full_table(f"{heading}, set by set", known)]


@command
def main(argv: list[str]) -> int:
    make_parser("tools.maintain.optimizer_claims", __doc__).parse_args(argv)
    text = "\n".join(table.markdown() for table in tables(read(RECORDED)))
    write_text(OUTPUT, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
