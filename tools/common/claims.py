"""Claims of the form "A is above B", judged by paired differences over seeds, and the tables that show them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tools.common.samples import Sample, show_difference
from tools.common.tables import Table
from tools.common.verdicts import Verdict, judge, judge_below


class Claim(NamedTuple):
    """What should be above what, on which sets, and the paired differences.

    `losses`: the differences in training and test cross-entropy where they are known. `family`: the claims that Holm's
    correction takes together. `sets`: the number of sets that `figures` is a mean over.
    """

    text: str
    where: str
    figures: Sample | None
    losses: tuple[Sample | None, ...] = ()
    family: str = ""
    sets: int = 1


class Judged(NamedTuple):
    """A claim with its verdicts on accuracy and on the training cross-entropy."""

    claim: Claim
    accuracy: Verdict
    training: Verdict

    def figures(self, with_losses: bool) -> list[str]:
        """Cells: the difference and its verdict, then those of the training loss and the difference in test loss."""
        shown = [show_difference(self.claim.figures) if self.claim.figures else "–", str(self.accuracy)]
        if with_losses:
            training, test = (show_difference(one) if one else "–" for one in (*self.claim.losses, None, None)[:2])
            shown += [training, "–" if training == "–" else str(self.training), test]
        return shown


LOSS_COLUMNS = ("training cross-entropy", "verdict", "test cross-entropy")


def judged(claims: Sequence[Claim]) -> list[Judged]:
    """The claims that have figures; each family is corrected by itself."""
    known = [claim for claim in claims if claim.figures]
    training = _verdicts(known, judge_below, lambda claim: claim.losses[0] if claim.losses else None)
    return list(map(Judged, known, _verdicts(known, judge, lambda claim: claim.figures), training))


def _verdicts(
    claims: Sequence[Claim],
    rule: Callable[[Sequence[Sample | None]], list[Verdict]],
    of: Callable[[Claim], Sample | None],
) -> list[Verdict]:
    families: dict[str, list[int]] = {}
    for i, claim in enumerate(claims):
        families.setdefault(claim.family or claim.text, []).append(i)
    found: dict[int, Verdict] = {}
    for members in families.values():
        found |= dict(zip(members, rule([of(claims[i]) for i in members]), strict=True))
    return [found[i] for i in range(len(claims))]


def full_table(title: str, claims: Sequence[Judged]) -> Table:
    """A row per claim and set, and one for its mean over sets."""
    with_losses = any(any(one.claim.losses) for one in claims)
    table = Table(title, ["claim", "on", "difference, points", "verdict", *(LOSS_COLUMNS if with_losses else ())])
    table.rows = [[one.claim.text, one.claim.where, *one.figures(with_losses)] for one in claims]
    return table


def short_table(title: str, claims: Sequence[Judged]) -> Table:
    """One row per claim: in the mean over the sets where there are several, with the number of sets by verdict."""
    with_losses = any(any(one.claim.losses) for one in claims)
    columns = ["claim", "on", "difference, points", "verdict", *(LOSS_COLUMNS if with_losses else ())]
    table = Table(title, [*columns, "sets: holds / fails / undecided"])
    by_text: dict[str, list[Judged]] = {}
    for one in claims:
        by_text.setdefault(one.claim.text, []).append(one)
    for text, members in by_text.items():
        for shown in [one for one in members if one.claim.sets > 1] or members:
            words = [one.accuracy.word for one in members if one.claim.sets == 1]
            counts = " / ".join(str(words.count(word)) for word in ("holds", "fails", "undecided"))
            table.rows.append([text, shown.claim.where, *shown.figures(with_losses), counts if shown.claim.sets > 1 else "–"])
    return table
