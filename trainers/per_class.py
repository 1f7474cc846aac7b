"""A run's figures for each class: its test images, and how many are classified correctly without and with the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# with more classes, the closing lines name only the worst and the best
MOST_LINES = 12
WORST_AND_BEST = 3


@dataclass(frozen=True)
class TestPredictions:
    """The test images' classes: true, by the zero-shot template and by the run's prompt, each (n,) int64 on the CPU."""

    __test__ = False  # not a test, whatever its name

    classnames: Sequence[str]
    labels: Tensor
    zero_shot: Tensor
    tuned: Tensor

    def confusion(self) -> Tensor:
        """Counts (K, K) int64: rows are the true classes, columns the predicted ones."""
        K = len(self.classnames)
        return torch.bincount(self.labels * K + self.tuned, minlength=K * K).view(K, K)

    def rows(self) -> list[dict[str, Any]]:
        """For result.json, in the order of the labels; accuracies in percent, None for a class without test images.

        A list, since a dataset may give two classes one name.
        """
        K = len(self.classnames)
        images = torch.bincount(self.labels, minlength=K).tolist()
        right = [
            torch.bincount(self.labels[found == self.labels], minlength=K).tolist() for found in (self.zero_shot, self.tuned)
        ]
        return [
            {"class": name, "images": n, "zero_shot_accuracy": _percent(before, n), "test_accuracy": _percent(after, n)}
            for name, n, before, after in zip(self.classnames, images, *right, strict=True)
        ]


def _percent(right: int, n: int) -> float | None:
    return 100 * right / n if n else None


def closing_lines(rows: Sequence[dict[str, Any]], tuned: bool) -> Iterator[str]:
    """All classes if they are few, otherwise the worst and the best. `tuned`: whether there is a prompt besides zero-shot."""
    rows = [row for row in rows if row["images"]]
    if len(rows) <= MOST_LINES:
        width = max((len(row["class"]) for row in rows), default=0)
        for row in rows:
            before = f"{row['zero_shot_accuracy']:6.2f}% → " if tuned else ""
            yield f"  {row['class']:{width}}  {before}{row['test_accuracy']:6.2f}%  ({row['images']:,} images)"
        return
    ordered = sorted(rows, key=lambda row: row["test_accuracy"])
    yield f"Worst classes: {_short(ordered[:WORST_AND_BEST], tuned)}"
    yield f"Best classes: {_short(ordered[: -WORST_AND_BEST - 1 : -1], tuned)}"


def _short(rows: Sequence[dict[str, Any]], tuned: bool) -> str:
    def shown(row: dict[str, Any]) -> str:
        before = f"{row['zero_shot_accuracy']:.0f}% → " if tuned else ""
        return f"{row['class']} {before}{row['test_accuracy']:.0f}%"

    return ", ".join(map(shown, rows))
