"""Which runs each table and figure needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tools.common.costs import cost
from tools.reproduce.suites import OURS, PAPERS_RATIOS, PAPERS_RHOS, SHOTS, Cell, JobFactory, Suite, prompt_of
from trainers import TRAINERS
from trainers.run_path import evaluation_name
from utils.errors import UserError
from utils.setting_kinds import DEPARTURES

PAPERS_READING, DENSE = "none (the paper's reading)", "none, dense stage 2"
NAIVE = {"variant": "naive", "smoothness_estimator": "none"}
WHOLE, NAIVE_STAGE, BY_MAGNITUDE = OURS, "naive CMA-ES in stage 1", "pruned by magnitude"
UNMASKED, STAGE_1 = "dense stage 2", "stage 1 alone"
DIMENSIONS = ("64", "128", "256", "512")
PROJECTED = ("bbt", "mezo", OURS, "sharpzo+")
OWN_BUDGET, SMALL_BUDGET, OUR_BUDGET = "its own budget", "a small budget", "SharpZO's budget"
# Image prompts encode images again at every query; with SharpZO's budget a run would take an hour.
TEXT_SIDE = ("bbt", "zip", "coop", "craft", "mezo", OURS)
PICTURE_SIDE = ("blackvip", "bpt-vlm")


def table1(maker: JobFactory) -> Iterator[Cell]:
    """Accuracy of all methods on all datasets."""
    for backbone in maker.suite.backbones:
        for dataset in maker.suite.datasets:
            for method in maker.methods():
                yield from maker.repeats(f"{backbone}, {method}", dataset, dataset, method, backbone=backbone)
            for method in [method for method in maker.suite.same_queries if {method, OURS} <= set(maker.suite.methods)]:
                yield from maker.with_our_queries(f"{backbone}, {method}, same queries", dataset, dataset, method, backbone)


def baselines(maker: JobFactory) -> Iterator[Cell]:
    """Every method at its own budget, all at one small budget, and at SharpZO's if such a run is short."""
    if not maker.suite.small_budget:
        raise UserError(f"baselines: the {maker.suite.name} suite has no settings for equal budgets; use --suite mini")
    dataset = maker.suite.ablation
    yield from maker.repeats("zero-shot", OWN_BUDGET, dataset, "zero-shot")
    yield from maker.repeats("zip-20k", OWN_BUDGET, dataset, "zip-20k")
    for method in (*TEXT_SIDE, *PICTURE_SIDE):
        own = list(maker.repeats(method, OWN_BUDGET, dataset, method))
        yield from own
        yield from or_own(own, maker.repeats(method, SMALL_BUDGET, dataset, method, config=maker.suite.small_budget))
        if method in TEXT_SIDE:
            yield from or_own(own, maker.with_our_queries(method, OUR_BUDGET, dataset, method))


def equal(maker: JobFactory) -> Iterator[Cell]:
    """Every method, and CraFT, on every dataset with the same small number of queries; CoOp at its own budget beside them."""
    for dataset in of_equal_budgets(maker, "equal").datasets:
        for method in (*maker.methods(), "craft"):
            yield from maker.at_small_budget(method, dataset, dataset, method)
        yield from maker.repeats("coop", dataset, dataset, "coop")


def parts(maker: JobFactory) -> Iterator[Cell]:
    """SharpZO without one of its parts at a time, at the queries of `equal`; stage 1 of all has the same number of them."""
    for dataset in of_equal_budgets(maker, "parts").datasets:
        ours = maker.job(dataset, OURS, config=maker.suite.small_budget).config
        spent = cost(ours)
        generations = spent.stage1 // ours.popsize if spent else 0
        without: dict[str, dict[str, Any]] = {
            WHOLE: {},
            NAIVE_STAGE: {"variant": "5000-naive", "smoothness_estimator": "none", "change_point": generations},
            BY_MAGNITUDE: {"variant": "5000-magnitude", "pruning": "magnitude"},
            UNMASKED: {"variant": "5000-dense", "pruning": "none"},
            STAGE_1: {"variant": "5000-stage1", "change_point": ours.total_steps},
        }
        for row, settings in without.items():
            yield from maker.at_small_budget(row, dataset, dataset, OURS, **settings)


def transfer(maker: JobFactory) -> Iterator[Cell]:
    """The prompts of `equal` that were tuned on the suite's source, under shift and on its other sets."""
    suite = of_equal_budgets(maker, "transfer")
    source, elsewhere = suite.source, [*suite.shifts, *(one for one in suite.datasets if one != suite.source)]
    for method in maker.methods():
        if not TRAINERS[method].build:
            for dataset in (source, *elsewhere):
                yield from maker.repeats(method, dataset, dataset, method)
            continue
        trained = list(maker.at_small_budget(method, source, source, method))
        yield from trained
        for dataset in elsewhere:
            yield from (evaluation(maker, entry, dataset, prefix=f"{entry.job.config.run_name}-") for entry in trained)


def dimensions(maker: JobFactory) -> Iterator[Cell]:
    """`equal` at other d of the projected prompt, on the datasets of tables 3 and 4."""
    suite = of_equal_budgets(maker, "dimensions")
    for dataset in suite.timed:
        for method in [method for method in maker.methods() if method in PROJECTED]:
            usual = str(maker.job(dataset, method, config=suite.small_budget).config.intrinsic_dim)
            for d in DIMENSIONS:
                own: dict[str, Any] = {} if d == usual else {"variant": f"5000-d{d}", "intrinsic_dim": d}
                yield from maker.at_small_budget(method, f"{dataset}, d = {d}", dataset, method, **own)


def of_equal_budgets(maker: JobFactory, name: str) -> Suite:
    """The suite, if it has a small budget for every dataset. UserError otherwise."""
    if not maker.suite.equal:
        raise UserError(f"{name}: the {maker.suite.name} suite has no settings for equal budgets on all sets; use --suite icons")
    return maker.suite


def or_own(own: Sequence[Cell], others: Iterator[Cell]) -> Iterator[Cell]:
    """`others`, or in their place the runs at the method's own budget if both make the same number of queries."""
    for mine, other in zip(own, others, strict=True):
        same = cost(mine.job.config) == cost(other.job.config)
        yield mine._replace(column=other.column) if same else other


def table2(maker: JobFactory) -> Iterator[Cell]:
    """Trained on ImageNet (or the suite's own source dataset) and tested under distribution shift."""
    source = maker.suite.source
    for backbone in maker.suite.backbones:
        for method in (*maker.methods(), "coop"):
            row = f"{backbone}, {method}"
            trained = list(maker.repeats(row, source, source, method, backbone=backbone))
            yield from trained
            for shift in maker.suite.shifts:
                if not TRAINERS[method].build:
                    yield from maker.repeats(row, shift, shift, method, backbone=backbone)
                    continue
                yield from (evaluation(maker, entry, shift) for entry in trained)


def evaluation(maker: JobFactory, trained: Cell, dataset: str, classes: str = "all", prefix: str = "") -> Cell:
    """The prompt of `trained` on another dataset, or on other classes of its own; `prefix` tells budgets of one method apart."""
    made = trained.job.config
    variant = prefix + evaluation_name(made.prompt_trainer, made.dataset, classes)
    where: dict[str, Any] = {"seed": made.seed, "backbone": made.backbone, "shots": made.shots, "subsample_classes": classes}
    job = maker.job(dataset, "saved", variant=variant, load_prompt=prompt_of(trained.job), **where)
    return Cell(trained.row, dataset, job, phase=1)


def table3(maker: JobFactory) -> Iterator[Cell]:
    """Time to a common accuracy."""
    for dataset in maker.suite.timed:
        for method in maker.methods():
            if TRAINERS[method].build:
                yield from maker.repeats(method, dataset, dataset, method)


def table4(maker: JobFactory) -> Iterator[Cell]:
    """Accuracy against CraFT; memory is measured separately."""
    for dataset in maker.suite.timed:
        for method in ("craft", OURS):
            yield from maker.repeats(method, dataset, dataset, method)


def table5(maker: JobFactory) -> Iterator[Cell]:
    """One dataset by backbone."""
    dataset, backbones = maker.suite.table5
    for backbone in backbones:
        for method in maker.methods():
            yield from maker.repeats(method, backbone, dataset, method, backbone=backbone)


def table6(maker: JobFactory) -> Iterator[Cell]:
    """Pruning metric × ratio."""
    default = str(maker.setting("prune_ratio"))
    for pruning in ("magnitude", "zscore"):
        for ratio in PAPERS_RATIOS:
            row, dataset = pruning, maker.suite.ablation
            if (pruning, ratio) == ("zscore", default):
                yield from maker.repeats(row, ratio, dataset, OURS)
            else:
                variant = f"{pruning}-{ratio}"
                yield from maker.repeats(row, ratio, dataset, OURS, variant=variant, pruning=pruning, prune_ratio=ratio)


def table7(maker: JobFactory) -> Iterator[Cell]:
    """ρ."""
    default = str(maker.setting("rho"))
    for rho in PAPERS_RHOS:
        own: dict[str, Any] = {} if rho == default else {"variant": f"rho-{rho}", "rho": rho}
        yield from maker.repeats(OURS, rho, maker.suite.ablation, OURS, **own)


def fig1(maker: JobFactory) -> Iterator[Cell]:
    """Training curves of all methods."""
    for method in maker.methods():
        yield from maker.repeats(method, maker.suite.ablation, maker.suite.ablation, method)


def fig2(maker: JobFactory) -> Iterator[Cell]:
    """Stage 1 alone, naive and sharpness-aware, for the first seed: the centers of the loss surfaces."""
    dataset, steps = maker.suite.ablation, maker.setting("change_point")
    seed = (maker.seeds or maker.suite.seeds)[0]
    chosen: dict[str, dict[str, Any]] = {
        "naive CMA-ES": {"variant": "stage1-naive", "smoothness_estimator": "none"},
        "sharpness-aware CMA-ES": {"variant": "stage1"},
    }
    for row, settings in chosen.items():
        yield Cell(row, dataset, maker.job(dataset, "cma-es", seed, total_steps=steps, **settings))


def fig3(maker: JobFactory) -> Iterator[Cell]:
    """Naive and sharpness-aware CMA-ES, both followed by the same stage 2."""
    dataset = maker.suite.ablation
    yield from maker.repeats("sharpness-aware CMA-ES", dataset, dataset, OURS)
    yield from maker.repeats("naive CMA-ES", dataset, dataset, OURS, **NAIVE)


def fig4(maker: JobFactory) -> Iterator[Cell]:
    """Stage 2 dense, pruned by magnitude, pruned by Z-score."""
    dataset, ratio = maker.suite.ablation, maker.setting("prune_ratio")
    yield from maker.repeats("dense", dataset, dataset, "zo")
    yield from maker.repeats("magnitude", dataset, dataset, OURS, variant=f"magnitude-{ratio}", pruning="magnitude")
    yield from maker.repeats("Z-pruning", dataset, dataset, OURS)


def shots(maker: JobFactory) -> Iterator[Cell]:
    """Accuracy by the number of training images per class."""
    for dataset in maker.suite.datasets:
        for method in maker.methods():
            # a set with fewer pictures has fewer shots
            most = int(maker.setting("shots", dataset))
            for count in [count for count in SHOTS if count <= most] if TRAINERS[method].build else (16,):
                yield from maker.repeats(method, f"{dataset}, {count}", dataset, method, shots=count)


def base2new(maker: JobFactory) -> Iterator[Cell]:
    """Trained on the first half of the classes, tested on both halves."""
    for dataset in maker.suite.datasets:
        for method in maker.methods():
            if not TRAINERS[method].build:
                for half in ("base", "new"):
                    yield from maker.repeats(method, f"{dataset}, {half}", dataset, method, variant=half, subsample_classes=half)
                continue
            for entry in maker.repeats(method, f"{dataset}, base", dataset, method, variant="base", subsample_classes="base"):
                yield entry
                yield evaluation(maker, entry, dataset, "new")._replace(column=f"{dataset}, new")


def cross(maker: JobFactory) -> Iterator[Cell]:
    """Trained on the first dataset of the suite, tested on all others."""
    source, *others = maker.suite.datasets
    for method in maker.methods():
        trained = list(maker.repeats(method, source, source, method))
        yield from trained
        for dataset in others:
            if TRAINERS[method].build:
                yield from (evaluation(maker, entry, dataset) for entry in trained)
            else:
                yield from maker.repeats(method, dataset, dataset, method)


def fidelity(maker: JobFactory) -> Iterator[Cell]:
    """The released code's deviations, one at a time, then those it ran with together; dense ones beside the dense default."""
    dataset = maker.suite.ablation
    yield from maker.repeats(PAPERS_READING, dataset, dataset, OURS)
    for name in DEPARTURES:
        if name != "matrix-w":
            yield from maker.repeats(name, dataset, dataset, OURS, variant=f"fidelity-{name}", fidelity=name)
    yield from maker.repeats("one random view of each image", dataset, dataset, OURS, variant="one-view", augment_views=1)
    yield from maker.repeats("no box on w", dataset, dataset, OURS, variant="no-bound", bound=0)
    ratio = {"variant": "zscore-0.1", "pruning": "zscore", "prune_ratio": "0.1"}
    yield from maker.repeats("r = 0.1", dataset, dataset, OURS, **ratio)
    longer = 10 * maker.setting("total_steps")
    yield from maker.repeats("ten times the steps", dataset, dataset, OURS, variant="ten-times-the-steps", total_steps=longer)
    yield from maker.repeats(DENSE, dataset, dataset, "zo")
    for label, chosen in (("gradient-buffer", "gradient-buffer"), ("gradient-buffer and matrix-w", "gradient-buffer,matrix-w")):
        yield from maker.repeats(f"{label}, dense", dataset, dataset, "zo", variant=f"fidelity-{chosen}", fidelity=chosen)
    yield from maker.repeats("released, dense", dataset, dataset, "zo", variant="released", fidelity="released")
    both = {"variant": "released-one-view", "fidelity": "released", "augment_views": 1}
    yield from maker.repeats("released, dense, one random view", dataset, dataset, "zo", **both)


def claims(maker: JobFactory) -> Iterator[Cell]:
    """All runs that the paper's claims are judged by."""
    names = ["table1", "table2", "table6", "table7", "fig3", "fig4"]
    if maker.suite.equal:
        names += ["equal", "parts", "transfer"]
    for name in names:
        yield from (entry._replace(row=f"{name}, {entry.row}") for entry in PLANS[name](maker))


PLANS: dict[str, Callable[[JobFactory], Iterator[Cell]]] = {
    plan.__name__: plan
    for plan in (
        *(baselines, equal, parts, transfer, dimensions),
        *(table1, table2, table3, table4, table5, table6, table7, fig1, fig2, fig3, fig4),
        *(shots, base2new, cross, fidelity, claims),
    )
}
