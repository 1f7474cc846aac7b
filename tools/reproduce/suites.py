"""The suites, the paper's and the two of a laptop, and the commands of their runs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from clip import ICONS, MINIS
from tools.common.costs import cost
from tools.common.names import OURS
from tools.common.runs import Job, flags_of, root_of
from trainers import TRAINERS
from utils.settings import Config

PAPERS_RATIOS = ("0.1", "0.3", "0.5", "0.7", "0.9")
PAPERS_RHOS = ("0.001", "0.01", "0.05", "0.1", "0.5")
SHOTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Suite:
    """What a suite's tables and figures run on.

    `source`: the dataset that table 2 trains on, `shifts` its other test sets. `ablation`: the dataset of tables 6 and 7 and of
    the figures. `timed`: those of tables 3 and 4. `table5`: its dataset and backbones. `same_queries`: methods that also run
    with SharpZO's number of queries. `small_budget`: a YAML that gives all methods one budget on the ablation's dataset, for
    the artifact "baselines", and where `equal` on every dataset, for "equal", "parts", "transfer" and "dimensions".
    `claim_seeds`: the seeds of these four, which decide claims. `curves`: the datasets of the artifact "curves".
    """

    name: str
    datasets: tuple[str, ...]
    backbones: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    ablation: str
    timed: tuple[str, ...]
    source: str
    shifts: tuple[str, ...]
    table5: tuple[str, tuple[str, ...]]
    same_queries: tuple[str, ...] = ()
    small_budget: str = ""
    equal: bool = False
    claim_seeds: tuple[int, ...] = ()
    curves: tuple[str, ...] = ()

    @property
    def backbone(self) -> str:
        """The one of tables 3, 4, 6, 7 and of the figures."""
        return self.backbones[-1]


PAPER = Suite(
    name="paper",
    datasets=(
        *("imagenet", "oxford_pets", "oxford_flowers", "fgvc_aircraft", "dtd", "eurosat"),
        *("stanford_cars", "food101", "sun397", "caltech101", "ucf101"),
    ),
    backbones=("RN50", "ViT-B/16"),
    seeds=(1, 2, 3),
    methods=("zero-shot", "bbt", "blackvip", "zip", "zip-20k", OURS),
    ablation="eurosat",
    timed=("imagenet", "oxford_pets", "dtd", "eurosat"),
    source="imagenet",
    shifts=("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"),
    table5=("imagenet", ("RN50", "RN101", "ViT-B/16", "ViT-B/32")),
)
MINI = Suite(
    name="mini",
    datasets=("digits", "openmoji", "textile"),
    backbones=("Mini",),
    seeds=(1, 2, 3, 4, 5),
    methods=("zero-shot", "bbt", "blackvip", "mezo", "zip", OURS),
    ablation="digits",
    timed=("digits", "openmoji", "textile"),
    source="digits",
    shifts=("mnist", "digits_negative", "digits_noise", "digits_turned"),
    table5=("digits", MINIS),
    same_queries=("bbt", "zip"),
    small_budget="configs/budgets/digits-5000.yaml",
)
ICON_SUITE = Suite(
    name="icons",
    datasets=(
        *("icons_broad", "icons_objects", "icons_animals", "icons_food", "icons_vehicles", "icons_badges"),
        *("icons_arrows", "icons_outdoors", "icons_styles", "icons_topics", "icons_emoji", "icons_actions"),
    ),
    backbones=("Icons",),
    seeds=(1, 2, 3, 4, 5),
    methods=("zero-shot", "bbt", "blackvip", "mezo", "zip", OURS, "sharpzo+"),
    ablation="icons_emoji",
    timed=("icons_emoji", "icons_styles"),
    source="icons_broad",
    shifts=("icons_color", "icons_sketch", "icons_pixel", "icons_glyph"),
    table5=("icons_emoji", ICONS),
    same_queries=("bbt", "mezo", "zip"),
    small_budget="configs/budgets/icons-5000.yaml",
    equal=True,
    claim_seeds=tuple(range(1, 11)),
    curves=("icons_emoji", "icons_styles", "icons_topics", "icons_badges"),
)
SUITES = {suite.name: suite for suite in (PAPER, MINI, ICON_SUITE)}


class Cell(NamedTuple):
    """A run and its place: a row and a column of a table, or a line (and panel) of a figure.

    `phase`: runs of a later phase read what those of an earlier one wrote.
    """

    row: str
    column: str
    job: Job
    phase: int = 0


@dataclass(frozen=True)
class JobFactory:
    """Makes a suite's commands. The same run has the same folder in every table that shows it."""

    suite: Suite
    output_dir: str
    root_path: str | None = None
    seeds: tuple[int, ...] = ()

    def job(
        self, dataset: str, method: str, seed: int = 1, backbone: str = "", shots: int = 0, variant: str = "", **settings: Any
    ) -> Job:
        """One run. `shots`: 0 for the YAML's. `variant`: the --run_name of a run whose `settings` differ from that YAML."""
        own: dict[str, Any] = {
            "config": f"configs/{dataset}.yaml",
            "root_path": root_of(dataset, self.root_path),
            "output_dir": self.output_dir,
            "backbone": backbone or self.suite.backbone,
            "prompt_trainer": method,
            "shots": shots or self.setting("shots", dataset),
            "seed": seed,
            "run_name": variant or None,
        }
        if "config" in settings:
            own["dataset"] = dataset
        return Job(flags_of(own | settings))

    def repeats(self, row: str, column: str, dataset: str, method: str, **settings: Any) -> Iterator[Cell]:
        """A cell per seed; a single one for methods that train nothing."""
        yield from self._over(self.seeds or self.suite.seeds, row, column, dataset, method, **settings)

    def at_small_budget(self, row: str, column: str, dataset: str, method: str, **settings: Any) -> Iterator[Cell]:
        """`repeats` with the settings of the suite's small budget, over the seeds that decide claims."""
        seeds = self.seeds or self.suite.claim_seeds or self.suite.seeds
        if TRAINERS[method].build:
            settings = {"config": self.suite.small_budget} | settings
        yield from self._over(seeds, row, column, dataset, method, **settings)

    def _over(self, seeds: Sequence[int], row: str, column: str, dataset: str, method: str, **settings: Any) -> Iterator[Cell]:
        for seed in seeds if TRAINERS[method].build else seeds[:1]:
            yield Cell(row, column, self.job(dataset, method, seed, **settings))

    def with_our_queries(self, row: str, column: str, dataset: str, method: str, backbone: str = "") -> Iterator[Cell]:
        """`method` with SharpZO's number of queries on the dataset; nothing if that number depends on data on disk."""
        budget = cost(self.job(dataset, OURS, backbone=backbone).config)
        if budget:
            own = {"max_queries": budget.queries, "total_steps": budget.queries, "epochs": 0}
            yield from self.repeats(row, column, dataset, method, backbone=backbone, variant="same-queries", **own)

    def methods(self) -> list[str]:
        return [method for method in self.suite.methods if method in TRAINERS]

    def setting(self, key: str, dataset: str = "") -> Any:
        """A setting of SharpZO's on the dataset (default: the ablation's)."""
        return getattr(settings_on(dataset or self.suite.ablation), key)


@functools.cache
def settings_on(dataset: str) -> Config:
    """SharpZO's settings by the dataset's YAML."""
    return Job(flags_of({"config": f"configs/{dataset}.yaml", "prompt_trainer": OURS})).config


def prompt_of(job: Job) -> str:
    """Where a training run leaves its prompt."""
    return str(job.path / "prompt.safetensors")
