"""All runs in one CSV: a row for each run with every setting and result; written by tools.summarize and read back."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.common.runs import FinishedRun, find_runs
from utils.config import FIELDS
from utils.errors import UserError

# Settings and columns of earlier versions, under their present names.
RENAMED = {"normalise_adapter": "normalize_adapter"}
WHOLE = ("queries", "forwards", "tower_images", "evaluations", "shots", "seed")
WHERE = ("commit", "torch", "processor", "path")


def gather(sources: Sequence[Path]) -> tuple[list[FinishedRun], list[Path]]:
    """Finished runs below folders and in CSV files, and the folders of unfinished runs. Raises UserError for a missing source."""
    finished, unfinished = find_runs([source for source in sources if source.suffix != ".csv"])
    for source in sources:
        if source.suffix == ".csv":
            finished += read_csv(source)
    return finished, unfinished


def write_csv(runs: Sequence[FinishedRun], path: Path) -> None:
    """A row per run: settings, results, then where it ran. Columns that only some runs have are empty for the others."""
    rows = [csv_row(run) for run in runs]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def csv_row(run: FinishedRun) -> dict[str, Any]:
    """What one row holds; tables, as the accuracy of each class, stay in result.json."""
    settings = {key: run.config[key] for key in FIELDS if key in run.config}
    single = {key: value for key, value in run.result.items() if not isinstance(value, list | dict)}
    results = {key: value for key, value in single.items() if key not in settings and key != "trainer"}
    where = {"commit": run.environment.get("commit"), "torch": run.torch, "processor": run.computer, "path": str(run.path)}
    return settings | results | where


def read_csv(path: Path) -> list[FinishedRun]:
    """The runs of a CSV that `write_csv` wrote, also of an earlier version. Raises UserError for another file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [_run_of({RENAMED.get(key, key): text for key, text in row.items()}) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a CSV of tools.summarize --csv: {error!r}") from error


def _run_of(row: dict[str, str]) -> FinishedRun:
    config = {key: _setting(key, row[key]) for key in FIELDS if row.get(key)}
    results = {key: _number(key, text) for key, text in row.items() if text and key not in FIELDS and key not in WHERE}
    about: dict[str, Any] = {"trainer": row["prompt_trainer"], "dataset": row["dataset"], "backbone": row["backbone"]}
    about |= {"shots": int(row["shots"]), "seed": int(row["seed"])}
    machine = {"commit": row["commit"], "packages": {"torch": row["torch"]}, "machine": {"processor": row["processor"]}}
    return FinishedRun(Path(row["path"]), config, about | results, machine)


def _setting(key: str, text: str) -> Any:
    """A setting as its field has it; words such as "auto" stay text."""
    kind = FIELDS[key].metadata["kind"]
    if kind is bool:
        return {"True": True, "False": False}[text]
    return text if kind is str or text in FIELDS[key].metadata.get("words", ()) else kind(text)


def _number(key: str, text: str) -> Any:
    if key in WHOLE:
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text
