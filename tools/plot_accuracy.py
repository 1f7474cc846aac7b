"""Draws accuracy against queries from the metrics.jsonl of finished runs: mean and range over seeds, zero-shot as a star at 0.

    python -m tools.plot_accuracy outputs/digits/zo-pruned/Mini/16shots --output docs/digits.png

Each folder given holds one sub-folder a seed. Test accuracy is drawn where runs logged it (`--eval_test`), else validation.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from utils.errors import UserError

STYLES = ("-", "--", "-.", ":")


def read_run(folder: Path) -> tuple[list[dict], dict]:
    """The evaluated records and the result of a finished run."""
    try:
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a finished run: {error}") from error
    return [record for record in records if "val_accuracy" in record], result


def draw(folders: list[Path], output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for style, folder in zip(STYLES, folders, strict=False):
        runs = [read_run(path) for path in sorted(folder.glob("seed*"))]
        if not runs:
            raise UserError(f"{folder}: holds no seed* folder")
        key = "test_accuracy" if all("test_accuracy" in records[-1] for records, _ in runs) else "val_accuracy"
        # seeds of one setting ask the same queries unless the change point is automatic: draw the common grid
        grid = np.unique(np.concatenate([[record["queries"] for record in records] for records, _ in runs]))
        curves = np.array([np.interp(grid, [r["queries"] for r in records], [r[key] for r in records]) for records, _ in runs])
        result = runs[0][1]
        seeds = f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"
        label = (
            f"{result['trainer']}, {result['dataset']}, {result['backbone']}, {result['shots']} shots (mean and range of {seeds})"
        )
        (line,) = axes.plot(grid / 1000, curves.mean(0), style, label=label)
        axes.fill_between(grid / 1000, curves.min(0), curves.max(0), alpha=0.2, color=line.get_color(), linewidth=0)
        change = next((r["queries"] for r in runs[0][0] if r["stage"] == 2), None)
        if change is not None:
            axes.axvline(change / 1000, color="0.5", linewidth=0.8, linestyle=":")
            axes.annotate(
                "stage 2", (change / 1000, 0.96), xycoords=("data", "axes fraction"), xytext=(3, 0), textcoords="offset points"
            )
        if key == "test_accuracy":
            axes.plot(0, result["zero_shot_accuracy"], "*", markersize=13, color="black", clip_on=False, zorder=3)
    axes.plot([], [], "*", markersize=13, color="black", label="zero-shot")
    axes.set_xlabel("queries (thousand forward passes over the training set)")
    axes.set_ylabel(f"{key.split('_')[0]} accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)
    print(output)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help=f"one to {len(STYLES)} folders of seed* runs")
    parser.add_argument("--output", type=Path, required=True, help="picture to write")
    arguments = parser.parse_args()
    try:
        draw(arguments.folders, arguments.output)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
