"""What the page says of one run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from clip.prompt import PROMPT_FILE
from tools.common.names import title
from tools.common.runs import FinishedRun
from tools.report.curves import Curve, curves_svg
from tools.report.scores import TestScores, score_test_images, thumbnail
from trainers.classifier import Classifier
from utils.config import FIELDS
from utils.errors import UserError
from utils.setting_kinds import NOT_IDENTITY

# more classes than a page's width shows
MOST_CLASSES = 30
MOST_PAIRS = 30


def run_page(run: FinishedRun, root_path: str | None) -> dict[str, Any]:
    """The template's variables. Without the prompt or the dataset, the parts that need them are left out, with a note."""
    result = run.result
    gain = result["test_accuracy"] - result["zero_shot_accuracy"]
    numbers = [
        (f"{result['test_accuracy']:.2f}%", "test accuracy"),
        (f"{result['zero_shot_accuracy']:.2f}%", "zero-shot"),
        (f"{gain:+.2f}", "points gained"),
        (f"{result['queries']:,}", "queries"),
        (f"{result['seconds']:.1f} s", "of steps"),
    ]
    page = {
        "title": f"{title(result['trainer'])} on {result.get('dataset_name') or result['dataset']}, {result['backbone']}",
        "subtitle": f"{result['shots']} shots, seed {result['seed']}, {run.path}",
        "numbers": numbers,
        "notes": [],
        "figures": figures(run),
        "phases": phases(run),
        "settings": changed_settings(run),
        "wrong": [],
        "environment": json.dumps(run.environment, indent=1, ensure_ascii=False),
    }
    try:
        if not (run.path / PROMPT_FILE).is_file():
            raise UserError(f"{run.path}: holds no {PROMPT_FILE}")
        root = root_path or run.config.get("root_path")
        classifier = Classifier.load(run.path, "cpu")
        plain = Classifier.load(run.path, backbone=classifier.backbone, zero_shot=True)
        scores = score_test_images(classifier, plain, root)
    except UserError as error:
        page["notes"] = [f"Confusion and images are left out: {error}"]
        columns = ("class", "images", "zero_shot_accuracy", "test_accuracy")
        page["classes"] = [[row[key] or 0 for key in columns] for row in result.get("classes", [])]
        return page
    return page | classes_of(scores, root)


def stages(run: FinishedRun) -> list[list[dict[str, Any]]]:
    """The logged steps of each stage, step 0 left out."""
    steps = [entry for entry in run.metrics if entry["step"]]
    return [[entry for entry in steps if entry["stage"] == stage] for stage in sorted({entry["stage"] for entry in steps})]


def figures(run: FinishedRun) -> list[str]:
    """Loss and accuracy against queries and against seconds."""
    found = stages(run)
    svgs = []
    for x, xlabel in (("queries", "queries"), ("seconds", "seconds")):
        change = found[1][0][x] if len(found) > 1 else None
        loss = Curve("training loss", *points(run, x, "loss"))
        svgs.append(curves_svg(f"loss-{x}", [loss], xlabel, "loss", change))
        names = {"val_accuracy": "validation", "test_accuracy": "test"}
        accuracy = [Curve(name, *points(run, x, key)) for key, name in names.items()]
        svgs.append(curves_svg(f"accuracy-{x}", [c for c in accuracy if c.x], xlabel, "accuracy (%)", change))
    return svgs


def points(run: FinishedRun, x: str, y: str) -> tuple[list[float], list[float]]:
    pairs = [(entry[x], entry[y]) for entry in run.metrics if x in entry and y in entry]
    return [a for a, _ in pairs], [b for _, b in pairs]


def phases(run: FinishedRun) -> list[tuple[str, float, Any, Any]]:
    """Name, seconds, steps and queries of each phase."""
    rows: list[tuple[str, float, Any, Any]] = []
    if "feature_seconds" in run.result:
        rows.append(("features of the training images", run.result["feature_seconds"], "", ""))
    seconds = queries = 0
    for entries in stages(run):
        last = entries[-1]
        rows.append((f"stage {last['stage']}", last["seconds"] - seconds, f"{len(entries):,}", f"{last['queries'] - queries:,}"))
        seconds, queries = last["seconds"], last["queries"]
    return rows


def changed_settings(run: FinishedRun) -> list[tuple[str, str, str]]:
    defaults = {name: field.default for name, field in FIELDS.items()}
    different = {key: value for key, value in run.config.items() if key not in NOT_IDENTITY and defaults.get(key) != value}
    return [(key, str(value), str(defaults.get(key))) for key, value in different.items()]


def classes_of(scores: TestScores, root: str | None) -> dict[str, Any]:
    names = scores.classifier.classnames
    counts = scores.confusion().tolist()
    page: dict[str, Any] = {"classes": scores.per_class()}
    if len(names) <= MOST_CLASSES:
        page["confusion"] = {"names": names, "rows": [(names[k], shares(row, names)) for k, row in enumerate(counts)]}
    else:
        pairs = [(names[i], names[j], n) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n]
        page["pairs"] = sorted(pairs, key=lambda pair: -pair[2])[:MOST_PAIRS]
    headings = (("Most wrong before tuning", scores.before), ("Most wrong after tuning", scores.after))
    page["wrong"] = [(heading, images(scores, probabilities, root)) for heading, probabilities in headings]
    return page


def shares(row: Sequence[int], names: Sequence[str]) -> list[tuple[int, float, str]]:
    return [(count, count / max(1, sum(row)), name) for count, name in zip(row, names, strict=True)]


def images(scores: TestScores, probabilities: Any, root: str | None) -> list[dict[str, Any]]:
    found = []
    for position in scores.most_wrong(probabilities):
        row, truth = probabilities[position], int(scores.labels[position])
        label = int(row.argmax())
        found.append(
            {
                "uri": thumbnail(scores, position, root),
                "path": scores.items[position].path,
                "truth": scores.classifier.classnames[truth],
                "of_truth": float(row[truth]),
                "label": scores.classifier.classnames[label],
                "of_label": float(row[label]),
            }
        )
    return found
