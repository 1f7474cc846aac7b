"""The paper's claims, each judged by paired differences over seeds, with a 95% t-interval and Holm's correction."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

from tools.common.claims import Claim, full_table, judged, short_table
from tools.common.names import label
from tools.common.runs import FinishedRun
from tools.common.samples import Sample, difference, spread_ratio
from tools.common.tables import Table
from tools.reproduce.plans import BY_MAGNITUDE, NAIVE_STAGE, STAGE_1, UNMASKED, WHOLE
from tools.reproduce.results import ACCURACY, LOSSES, Results, stage1_end
from tools.reproduce.suites import OURS, PAPERS_RATIOS, PAPERS_RHOS, JobFactory
from utils.replay import METRICS

SHARP, NAIVE = "fig3, sharpness-aware CMA-ES", "fig3, naive CMA-ES"
EQUAL = "at equal small budgets"


def claims_tables(results: Results, maker: JobFactory) -> list[Table]:
    """Differences in test accuracy, in points, between what should be higher and what should be lower.

    A row per claim and set; before it, where there are several sets, a table with one row per claim.
    """
    every = [*above_baselines(results, maker), *equal_budgets(results, maker), *under_shift(results, maker)]
    every += ablations(results, maker)
    claims = judged(every)
    table = full_table("The paper's claims on this suite", claims)
    table.rows += [[*row, *["–" for _ in table.columns[len(row) :]]] for row in spreads(results, maker)]
    table.notes.append(
        "Differences are paired by seed (the same images), mean ± 95% t-interval. holds, fails: the mean is above or below 0 "
        "and the paired t-test rejects at 5% after Holm's correction over the claim's rows; undecided: it does not, and as many "
        "seeds would, at the level of Holm's first step, if mean and standard deviation stayed as they are. Spreads are sample "
        "standard deviations over the seeds that both have, in points; the interval is that of their ratio, SharpZO's to the "
        "other's, from the F distribution without a correction, and the claim holds if it lies below 1."
    )
    if any(any(one.claim.losses) for one in claims):
        table.notes.append("Cross-entropies: a negative difference is better; the claim holds on training where it is below 0.")
    table.notes += lacking(every)
    several = any(one.claim.sets > 1 for one in claims)
    return [short_table("The paper's claims on this suite, in the mean over its sets", claims), table] if several else [table]


def lacking(claims: Sequence[Claim]) -> list[str]:
    """A note that names the claims without two seeds in common."""
    places: dict[str, list[str]] = {}
    for claim in claims:
        if claim.figures is None:
            places.setdefault(claim.text, []).append(claim.where)
    if not places:
        return []
    return ["Too few runs: " + "; ".join(f"{text} ({shortened(where)})" for text, where in places.items()) + "."]


def shortened(places: Sequence[str]) -> str:
    """Up to three places by name, more by their number."""
    return ", ".join(places) if len(places) <= 3 else f"{len(places)} sets"


def on_sets(
    results: Results, text: str, sets: Sequence[str], ours: str, row: str, family: str = "", backbone: str = ""
) -> Iterator[Claim]:
    """The claim on each set, then on the mean of those that were run."""
    beside = f", {backbone}" if backbone else ""
    every = [claim_on(results, text, f"{dataset}{beside}", (dataset,), ours, row, family=family) for dataset in sets]
    yield from every
    run = [dataset for dataset, claim in zip(sets, every, strict=True) if claim.figures]
    if len(run) > 1:
        mean = claim_on(results, text, f"mean of {len(run)} sets{beside}", run, ours, row, family=family)
        yield mean._replace(sets=len(run))


def claim_on(
    results: Results,
    text: str,
    where: str,
    columns: Sequence[str],
    a: str,
    b: str,
    b_columns: Sequence[str] = (),
    family: str = "",
) -> Claim:
    """That a is above b, in the mean over `columns`."""
    accuracy, *losses = (results.paired(columns, a, b, b_columns, key) for key in (ACCURACY, *LOSSES))
    return Claim(text, where, accuracy, tuple(losses), family)


def above_baselines(results: Results, maker: JobFactory) -> Iterator[Claim]:
    for backbone in maker.suite.backbones:
        ours = f"table1, {backbone}, {OURS}"
        for row in [row for row in results.rows if row.startswith(f"table1, {backbone}, ") and row != ours]:
            other = row.removeprefix(f"table1, {backbone}, ")
            yield from on_sets(results, f"SharpZO above {label(other)}", maker.suite.datasets, ours, row, backbone=backbone)


def equal_budgets(results: Results, maker: JobFactory) -> Iterator[Claim]:
    """Against every method at one small budget, and against SharpZO without a part."""
    sets, ours = maker.suite.datasets, f"equal, {OURS}"
    for row in [row for row in results.rows if row.startswith("equal, ") and row != ours]:
        yield from on_sets(results, f"SharpZO above {label(row.removeprefix('equal, '))}, {EQUAL}", sets, ours, row)
    if f"parts, {WHOLE}" not in results.rows:
        return
    for text, better, worse in (
        ("sharpness-aware above naive CMA-ES", WHOLE, NAIVE_STAGE),
        ("Z-pruning above magnitude", WHOLE, BY_MAGNITUDE),
        ("Z-pruning above dense", WHOLE, UNMASKED),
        ("magnitude above dense", BY_MAGNITUDE, UNMASKED),
        ("both stages above stage 1 alone", WHOLE, STAGE_1),
    ):
        yield from on_sets(results, f"{text}, {EQUAL}", sets, f"parts, {better}", f"parts, {worse}")


def under_shift(results: Results, maker: JobFactory) -> Iterator[Claim]:
    """The means over all shifts of table 2, and of "transfer"."""
    tables = {f"table2, {backbone}, ": ("under shift", backbone) for backbone in maker.suite.backbones}
    tables["transfer, "] = (f"under shift, {EQUAL}", maker.suite.backbone)
    for start, (condition, backbone) in tables.items():
        for row in [row for row in results.rows if row.startswith(start) and row != start + OURS]:
            where = f"mean of {len(maker.suite.shifts)} shifts, {backbone}"
            text = f"SharpZO above {label(row.removeprefix(start))}, {condition}"
            yield claim_on(results, text, where, maker.suite.shifts, start + OURS, row, family=f"{condition}, {backbone}")


def ablations(results: Results, maker: JobFactory) -> Iterator[Claim]:
    dataset = maker.suite.ablation
    on_it = functools.partial(claim_on, results, where=dataset)
    stage = at_stage1(results, dataset, stage1_end)
    yield Claim("sharpness-aware above naive CMA-ES, at the end of stage 1", dataset, stage, family="fig3")
    after = "sharpness-aware above naive CMA-ES, after stage 2"
    yield on_it(after, columns=(dataset,), a=SHARP, b=NAIVE, family="fig3")
    for better, worse in (("Z-pruning", "magnitude"), ("magnitude", "dense"), ("Z-pruning", "dense")):
        yield on_it(f"{better} above {worse}", columns=(dataset,), a=f"fig4, {better}", b=f"fig4, {worse}", family="fig4")
    zscore, magnitude, rho_row = "table6, zscore", "table6, magnitude", f"table7, {OURS}"
    for ratio in PAPERS_RATIOS:
        text = f"Z-pruning above magnitude at ratio {ratio}"
        yield on_it(text, columns=(ratio,), a=zscore, b=magnitude, family="table6, metric")
    for ratio in [ratio for ratio in PAPERS_RATIOS if ratio != "0.5"]:
        text = f"ratio 0.5 above {ratio}"
        yield on_it(text, columns=("0.5",), a=zscore, b=zscore, b_columns=(ratio,), family="table6, ratio")
    for rho in [rho for rho in PAPERS_RHOS if rho != "0.1"]:
        yield on_it(f"ρ 0.1 above {rho}", columns=("0.1",), a=rho_row, b=rho_row, b_columns=(rho,), family="table7")


def at_stage1(results: Results, dataset: str, figure: Callable[[FinishedRun], float]) -> Sample | None:
    """Sharpness-aware minus naive; None without the step logs, as for runs read from a CSV."""
    pair = [results.cells.get((row, dataset), []) for row in (SHARP, NAIVE)]
    if not all((run.path / METRICS).is_file() for runs in pair for run in runs):
        return None
    sharp, naive = ({run.result["seed"]: figure(run) for run in runs} for runs in pair)
    seeds = sorted(sharp.keys() & naive.keys())
    return difference([sharp[s] for s in seeds], [naive[s] for s in seeds]) if len(seeds) > 1 else None


def spreads(results: Results, maker: JobFactory) -> Iterator[Sequence[str]]:
    """Smaller standard deviation across seeds than each baseline's."""
    for backbone in maker.suite.backbones:
        ours = f"table1, {backbone}, {OURS}"
        rivals = [row for row in results.rows if row.startswith(f"table1, {backbone}, ") and row != ours]
        for dataset in maker.suite.datasets:
            for row in rivals:
                yield from spread(results, dataset, ours, row)
    yield from spread(results, maker.suite.ablation, SHARP, NAIVE)


def spread(results: Results, dataset: str, ours: str, row: str) -> Iterator[Sequence[str]]:
    """The claim against one row, where both have runs with three seeds or more."""
    mine, other = results.values(ours, dataset), results.values(row, dataset)
    seeds = sorted(mine.keys() & other.keys())
    if len(seeds) > 2:
        ratio = spread_ratio([mine[seed] for seed in seeds], [other[seed] for seed in seeds])
        figures = f"{ratio.a:.2f} against {ratio.b:.2f}, ratio {ratio.low:.2f} to {ratio.high:.2f} (n = {len(seeds)})"
        held = "holds" if ratio.high < 1 else "fails" if ratio.low > 1 else "undecided"
        yield f"smaller spread across seeds than {label(row.partition(', ')[2])}", dataset, figures, held
