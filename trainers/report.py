"""The opening and closing lines of a run, on the terminal and in log.txt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datasets import ENSEMBLE
from datasets.classes import count
from trainers.per_class import closing_lines
from utils.run import Run, read_result

if TYPE_CHECKING:
    from datasets.split import Dataset
    from trainers.jobs import ZeroShot


def introduce(folder: Run, job: ZeroShot, *more: str) -> None:
    """The opening lines. `more`: further warnings."""
    for line in job.introduction():
        folder.log(line)
    for warning in (*more, *job.warnings):
        folder.log(f"warning: {warning}")
    template = f"{job.config.template!r}" + (f" and {len(ENSEMBLE)} more" if job.config.ensemble else "")
    images = f"{template}, {len(job.task.test_samples)} test images"
    folder.log(f"Zero-shot accuracy: {job.task.zero_shot_accuracy:.2f}% ({images})")


def report(folder: Run, result: dict[str, Any], total: int) -> None:
    """The closing lines, the last five in the form that CoOp's result parser reads. `total`: number of test images."""
    correct = round(result["test_accuracy"] / 100 * total)
    folder.log(f"{result['queries']:,} queries in {result['seconds']:.1f} s; {summary(result)}; results in {folder.path}")
    folder.log("Per class:" if result["trainer"] == "zero-shot" else "Per class, zero-shot → result:")
    for line in closing_lines(result["classes"], tuned=result["trainer"] != "zero-shot"):
        folder.log(line)
    if result["test_accuracy"] < result["zero_shot_accuracy"]:
        folder.log("warning: the result is below zero-shot; try more shots, more queries or smaller steps (--zo_lr, --sigma)")
    folder.log("Finish training")
    folder.log("=> result")
    folder.log(f"* total: {total:,}")
    folder.log(f"* correct: {correct:,}")
    folder.log(f"* accuracy: {result['test_accuracy']:.2f}%")


def image_counts(dataset: Dataset, used: Mapping[str, int]) -> str:
    """Classes, and by part the images found, the entries skipped (of a folder of images) and the images used."""
    skipped, total = dataset.skipped, f"{len(dataset.classnames)} classes"
    outside, divided = skipped.get("", 0), len(skipped) > 1
    if skipped and not divided:
        total += f", {len(dataset.train) + len(dataset.val) + len(dataset.test):,} images found, {outside:,} skipped"
    elif outside:
        total += f", {count(outside)} skipped outside the parts"
    parts = []
    for part, images in used.items():
        beside = f", {skipped[part]:,} skipped" if divided and part in skipped else ""
        found = len(getattr(dataset, part))
        drawn = " from train" if found < images else ""
        parts.append(f"{part}: {found:,} found{beside}, {images:,} used{drawn}")
    return "; ".join([total, *parts])


def summary(result: dict[str, Any]) -> str:
    gain = result["test_accuracy"] - result["zero_shot_accuracy"]
    return f"zero-shot {result['zero_shot_accuracy']:.2f}% → {result['test_accuracy']:.2f}% ({gain:+.2f} points)"


def earlier_result(job: ZeroShot) -> str:
    """The line for a run that has finished before."""
    result = read_result(job.path)
    said = f" with {summary(result)}" if result else ""
    return f"{job.path}: finished already{said}; --overwrite runs it again"
