"""The paper's claims, each judged by paired differences over seeds, with a 95% t-interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tools.common.names import label
from tools.common.runs import FinishedRun
from tools.common.samples import Sample, difference, show_difference, spread_ratio
from tools.common.tables import Table
from tools.reproduce.results import Results, stage1_end
from tools.reproduce.suites import OURS, PAPERS_RATIOS, PAPERS_RHOS, JobFactory
from utils.replay import METRICS

SHARP, NAIVE = "fig3, sharpness-aware CMA-ES", "fig3, naive CMA-ES"


def verdict(figures: Sample | None) -> str:
    """For a difference that should be above 0."""
    if figures is None:
        return "too few runs"
    if figures.mean - figures.half > 0:
        return "holds"
    return "fails" if figures.mean + figures.half < 0 else "not shown"


def claims_table(results: Results, maker: JobFactory) -> Table:
    """A row per claim: the difference in test accuracy, in points, between what should be higher and what should be lower."""
    table = Table("The paper's claims on this suite", ["claim", "on", "difference, points", "verdict"])
    for claim, where, figures in (*above_baselines(results, maker), *under_shift(results, maker), *ablations(results, maker)):
        table.rows.append([claim, where, show_difference(figures) if figures else "–", verdict(figures)])
    table.rows += spreads(results, maker)
    table.notes.append(
        "Differences are paired by seed (the same images), mean ± 95% t-interval. holds: the whole interval is above 0; fails: "
        "it is below 0; not shown: it contains 0. Spreads are sample standard deviations over the seeds that both have, in "
        "points; the interval is that of their ratio, SharpZO's to the other's, from the F distribution, and the claim holds "
        "if it lies below 1. No correction for the number of claims."
    )
    return table


Judged = tuple[str, str, Sample | None]


def above_baselines(results: Results, maker: JobFactory) -> Iterator[Judged]:
    for backbone in maker.suite.backbones:
        ours = f"table1, {backbone}, {OURS}"
        for row in [row for row in results.rows if row.startswith(f"table1, {backbone}, ") and row != ours]:
            other = row.removeprefix(f"table1, {backbone}, ")
            for dataset in maker.suite.datasets:
                yield f"SharpZO above {label(other)}", f"{dataset}, {backbone}", results.paired((dataset,), ours, row)


def under_shift(results: Results, maker: JobFactory) -> Iterator[Judged]:
    """The means over all shifts of table 2."""
    for backbone in maker.suite.backbones:
        start = f"table2, {backbone}, "
        for row in [row for row in results.rows if row.startswith(start) and row != start + OURS]:
            where = f"mean of {len(maker.suite.shifts)} shifts, {backbone}"
            yield (
                f"SharpZO above {label(row.removeprefix(start))}, under shift",
                where,
                results.paired(maker.suite.shifts, start + OURS, row),
            )


def ablations(results: Results, maker: JobFactory) -> Iterator[Judged]:
    dataset = maker.suite.ablation
    yield "sharpness-aware above naive CMA-ES, at the end of stage 1", dataset, at_stage1(results, dataset, stage1_end)
    yield "sharpness-aware above naive CMA-ES, after stage 2", dataset, results.paired((dataset,), SHARP, NAIVE)
    yield "Z-pruning above magnitude", dataset, results.paired((dataset,), "fig4, Z-pruning", "fig4, magnitude")
    yield "magnitude above dense", dataset, results.paired((dataset,), "fig4, magnitude", "fig4, dense")
    yield "Z-pruning above dense", dataset, results.paired((dataset,), "fig4, Z-pruning", "fig4, dense")
    for ratio in PAPERS_RATIOS:
        yield (
            f"Z-pruning above magnitude at ratio {ratio}",
            dataset,
            results.paired((ratio,), "table6, zscore", "table6, magnitude"),
        )
    for ratio in PAPERS_RATIOS:
        if ratio != "0.5":
            figures = results.paired(("0.5",), "table6, zscore", "table6, zscore", (ratio,))
            yield f"ratio 0.5 above {ratio}", dataset, figures
    for rho in PAPERS_RHOS:
        if rho != "0.1":
            yield f"ρ 0.1 above {rho}", dataset, results.paired(("0.1",), f"table7, {OURS}", f"table7, {OURS}", (rho,))


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
    mine, other = results.accuracies(ours, dataset), results.accuracies(row, dataset)
    seeds = sorted(mine.keys() & other.keys())
    if len(seeds) > 2:
        ratio = spread_ratio([mine[seed] for seed in seeds], [other[seed] for seed in seeds])
        figures = f"{ratio.a:.2f} against {ratio.b:.2f}, ratio {ratio.low:.2f} to {ratio.high:.2f} (n = {len(seeds)})"
        held = "holds" if ratio.high < 1 else "fails" if ratio.low > 1 else "not shown"
        yield f"smaller spread across seeds than {label(row.partition(', ')[2])}", dataset, figures, held
