"""The confusion matrix of a run as files: counts as CSV, and a picture that can be read for ten classes and for a thousand."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.errors import UserError
from utils.files import write_bytes, write_text
from utils.memory import explain_oom

if TYPE_CHECKING:
    from trainers.jobs import ZeroShot

CSV, PICTURE = "confusion.csv", "confusion.png"
# more classes than have room for counts in the cells, or for names on the axes
MOST_COUNTS, MOST_NAMES = 25, 80
DPI = 150
PAIRS_SHOWN = 40


def require_matplotlib() -> None:
    """Raises UserError if it is missing, before a run whose matrix is to be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--confusion: needs matplotlib; pip install -e '.[docs]' in the clone brings it")


def write_confusion(folder: Path, counts: np.ndarray, classnames: Sequence[str]) -> None:
    """`counts` (K, K): rows are the true classes, columns the predicted ones."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["true class", *classnames])
    table.writerows([name, *row] for name, row in zip(classnames, counts.tolist(), strict=True))
    picture = draw(counts, classnames)
    write_text(folder / CSV, text.getvalue())
    write_bytes(folder / PICTURE, picture)


def write_again(job: ZeroShot) -> None:
    """The matrix of a run that has finished already."""
    with explain_oom(job.config, job.device) as lower:
        predictions = job.predict_again(lower)
    write_confusion(job.path, predictions.confusion().numpy(), predictions.classnames)


def draw(counts: np.ndarray, classnames: Sequence[str]) -> bytes:
    """A PNG. Shade: share of the row, its square root, so that rare confusions are seen.

    Up to `MOST_COUNTS` classes have their counts in the cells. Beyond `MOST_NAMES` the axes have numbers, each cell has whole
    pixels, and the most frequent confusions are listed by name next to the matrix.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    K = len(classnames)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    many = K > MOST_NAMES
    # inches of the matrix: room for a name per row, or whole pixels per cell
    side = -(-1200 // K) * K / DPI if many else max(2.0, min(0.42, 14 / K) * K)
    left, below, right = (0.9, 0.7, 5.4) if many else (1.8, 1.8, 0.3)
    width, height = left + side + right, below + side + 0.5
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((left / width, below / height, side / width, side / height))
    # a single confused image among many classes must not look white
    shades = np.where(counts > 0, np.maximum(np.sqrt(shares), 0.2), 0)
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{int(counts.trace()):,} of {int(counts.sum()):,} test images are right", fontsize=10)
    if many:
        axes.tick_params(labelsize=8)
        figure.text((left + side + 0.3) / width, (below + side) / height, pairs(counts, classnames), va="top", fontsize=8)
    else:
        names = [shortened(name, 24) for name in classnames]
        size = 9 if K <= MOST_COUNTS else 6
        axes.set_xticks(range(K), names, rotation=90, fontsize=size)
        axes.set_yticks(range(K), names, fontsize=size)
    if K <= MOST_COUNTS:
        for i, j in zip(*counts.nonzero(), strict=True):
            color = "white" if shares[i, j] > 0.4 else "black"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8, color=color)
    file = io.BytesIO()
    # nothing of the machine in the file: equal runs write equal pictures
    figure.savefig(file, format="png", metadata={"Software": None}, bbox_inches=None if many else "tight")
    return file.getvalue()


def pairs(counts: np.ndarray, classnames: Sequence[str]) -> str:
    """The most frequent confusions, one per line."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS_SHOWN]
    found = [(i, j) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
    lines = [
        f"{wrong[i, j]:4}  {shortened(classnames[i], 24)} ({i}) as {shortened(classnames[j], 24)} ({j})".replace("$", r"\$")
        for i, j in found
    ]
    return "\n".join(["most frequent confusions (class number):", *lines])


def shortened(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
