"""Estimates a run's time from finished runs: seconds per query of the same trainer and backbone, in a CSV of tools.summarize."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from datasets import DATASETS
from tools.common.costs import Benchmark, Times, classes_of, cost
from tools.common.names import canonical
from tools.common.run_csv import read_csv
from tools.common.runs import FinishedRun
from utils.settings import Config


def read_times(path: Path) -> Times:
    """From a CSV of runs, or a JSON file of tools.benchmark. Raises UserError for another file."""
    return MeasuredTimes(read_csv(path)) if path.suffix == ".csv" else Benchmark.read(path)


class MeasuredTimes:
    """Seconds per query by backbone, trainer and dataset, medians over runs of any number of queries."""

    def __init__(self, runs: Sequence[FinishedRun]):
        found: dict[tuple[str, str], dict[str, list[float]]] = {}
        for run in runs:
            result = run.result
            if result.get("queries") and result.get("seconds"):
                key = result["backbone"], canonical(result["trainer"])
                found.setdefault(key, {}).setdefault(result["dataset"], []).append(result["seconds"] / result["queries"])
        self.rates = {key: {name: statistics.median(values) for name, values in rates.items()} for key, rates in found.items()}

    def seconds(self, config: Config) -> float | None:
        """A run's own steps, without loading; None for a trainer that no run had, and for unknown numbers of queries.

        A dataset without runs is scaled by classes from the one with the nearest number of them.
        """
        price, classes = cost(config), classes_of(config)
        if price is None or classes is None:
            return None
        if not price.queries:
            return 0.0
        rates = self.rates.get((config.backbone, canonical(config.prompt_trainer)))
        known = {name: sizes.classes for name in rates or () if name in DATASETS and (sizes := DATASETS[name].sizes)}
        if not rates or not known:
            return None
        nearest = config.dataset if config.dataset in known else min(known, key=lambda name: abs(known[name] - classes))
        return price.queries * rates[nearest] * classes / known[nearest]
