"""Classifies images with a tuned prompt: a run folder or a prompt.safetensors, of any trainer.

    python -m tools.predict outputs/digits/sharpzo/Mini/16shots/seed1 photo.png
    python -m tools.predict RUN PICTURES/ --format csv --output classes.csv --reject 0.4
    find . -name '*.jpg' | python -m tools.predict RUN - --format jsonl

A folder stands for all image files below it; `-` reads one path per line from standard input. Probabilities are CLIP's own. An
image that cannot be read becomes a row with the reason, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from tqdm import tqdm

from datasets.listing import SUFFIXES, is_image_name
from tools.common.cli import command, make_parser, user_path, user_path_text
from trainers.classifier import Classifier, Outcome
from utils.errors import RunError, UserError
from utils.files import is_terminal

FORMATS = ("table", "json", "jsonl", "csv")
UNKNOWN = "unknown"


class Row(NamedTuple):
    """What is written of one image: its label and the best classes with their probabilities, or why it cannot be read."""

    image: str
    label: str
    top: list[tuple[str, float]]
    error: str = ""


class Writer:
    """Writes rows one by one, in one of `FORMATS`; `close` ends the document."""

    def __init__(self, form: str, topk: int, file: TextIO, width: int):
        """`width`: of the longest image path, for the table."""
        self.form, self.topk, self.file, self.width = form, topk, file, width
        self.rows = 0
        if form == "csv":
            self._csv = csv.writer(file, lineterminator="\n")
            ranks = [name for rank in range(2, topk + 1) for name in (f"label_{rank}", f"probability_{rank}")]
            self._csv.writerow(["image", "label", "probability", *ranks, "error"])

    def write(self, row: Row) -> None:
        if self.form == "table":
            self.file.write(self._line(row) + "\n")
        elif self.form == "csv":
            pairs = [cell for pair in row.top for cell in pair][1:]
            self._csv.writerow([row.image, row.label, *pairs, *[""] * (2 * self.topk - 1 - len(pairs)), row.error])
        else:
            start = "" if self.form == "jsonl" else ",\n" if self.rows else "[\n"
            end = "\n" if self.form == "jsonl" else ""
            self.file.write(start + json.dumps(as_object(row), ensure_ascii=False) + end)
        self.rows += 1

    def close(self) -> None:
        if self.form == "json":
            self.file.write("\n]\n" if self.rows else "[]\n")
        self.file.flush()

    def _line(self, row: Row) -> str:
        if row.error:
            return f"{row.image:{self.width}}  error: {row.error}"
        best = f"{row.label}  {row.top[0][1]:.1%}"
        others = "".join(f"  {name} {probability:.1%}" for name, probability in row.top[1:])
        return f"{row.image:{self.width}}  {best}" + (f"  |{others}" if others else "")


def as_object(row: Row) -> dict[str, object]:
    if row.error:
        return {"image": row.image, "error": row.error}
    top = [{"label": name, "probability": probability} for name, probability in row.top]
    return {"image": row.image, "label": row.label, "probability": row.top[0][1], "top": top}


def row_of(outcome: Outcome, classnames: Sequence[str], topk: int, reject: float) -> Row:
    if outcome.logits is None:
        # the row names the image already
        return Row(str(outcome.picture), "", [], outcome.error.removeprefix(f"{outcome.picture}: "))
    probabilities, classes = outcome.logits.softmax(0).topk(min(topk, len(classnames)))
    top = [(classnames[k], probability) for k, probability in zip(classes.tolist(), probabilities.tolist(), strict=True)]
    return Row(str(outcome.picture), top[0][0] if top[0][1] >= reject else UNKNOWN, top)


def image_paths(given: Sequence[str], stdin: Iterable[str]) -> Iterable[str]:
    """Paths in order; folders are walked, "-" is read from `stdin` as it is needed. UserError for a folder without images."""
    if list(given) == ["-"]:
        return (line for line in (line.rstrip("\r\n") for line in stdin) if line)
    paths: list[str] = []
    for name in given:
        if name == "-":
            raise UserError("-: standard input is read alone; give it without other images")
        found = sorted(below(name)) if Path(name).is_dir() else [name]
        if not found:
            raise UserError(f"{name}: holds no image file ({', '.join(sorted(SUFFIXES))})")
        paths += found
    return paths


def below(folder: str) -> Iterator[str]:
    """Image files below a folder; hidden ones are left out."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (str(Path(place, name)) for name in files if is_image_name(name))


def read_classnames(given: Sequence[str] | None) -> list[str] | None:
    """Names as they are given, or the lines of the one file that is given."""
    if given is None or len(given) != 1 or not Path(given[0]).is_file():
        return list(given) if given else None
    try:
        lines = Path(given[0]).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"--classnames: {given[0]}: cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]


@contextlib.contextmanager
def opened(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that takes its name when it is complete."""
    if output is None:
        yield sys.stdout
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(output.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            yield file
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def classify(classifier: Classifier, paths: Iterable[str], arguments: argparse.Namespace) -> int:
    """Writes a row per image; returns how many could not be read. Raises UserError for the first under `--on_error fail`."""
    total = len(paths) if isinstance(paths, list) else None
    width = min(max(map(len, paths), default=0), 60) if isinstance(paths, list) else 40
    unreadable = 0
    with (
        opened(arguments.output) as file,
        # a table on the same terminal is progress enough
        tqdm(total=total, unit="img", disable=not is_terminal() or (file is sys.stdout and file.isatty())) as bar,
    ):
        writer = Writer(arguments.format, arguments.topk, file, width)
        for outcome in classifier.stream(paths, arguments.batch_size):
            if outcome.logits is None:
                unreadable += 1
                if arguments.on_error == "fail":
                    raise UserError(outcome.error)
            writer.write(row_of(outcome, classifier.classnames, arguments.topk, arguments.reject))
            bar.update()
        writer.close()
    return unreadable


def number(kind: Callable[[str], float], low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text}: must be from {low} to {high}")
        return value

    return read


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("tools.predict", __doc__)
    parser.add_argument("prompt", type=user_path, help="run folder or prompt.safetensors")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, folders, or - for paths on standard input")
    parser.add_argument("--topk", type=number(int, 1, 1000), default=1, help="classes per image (default: 1)")
    parser.add_argument("--format", choices=FORMATS, default="table")
    parser.add_argument("--output", type=user_path, metavar="FILE", help="default: standard output")
    parser.add_argument("--classnames", nargs="+", metavar="NAME", help="other classes: names, or one file with a name per line")
    parser.add_argument(
        "--reject", type=number(float, 0, 1), default=0.0, metavar="P", help=f'probability below which the label is "{UNKNOWN}"'
    )
    parser.add_argument("--zero_shot", action="store_true", help="the run's template instead of its prompt, for comparison")
    parser.add_argument("--on_error", choices=("row", "fail"), default="row", help="of an image that cannot be read")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 …")
    parser.add_argument("--checkpoint", type=user_path_text, help="the backbone's weight file, if it moved since the run")
    parser.add_argument("--batch_size", type=number(int, 1, 1 << 20), default=0, help="images per pass; default: the run's")
    return parser.parse_args(argv)


@command
def main(argv: list[str]) -> int:
    if isinstance(sys.stdin, io.TextIOWrapper):
        # a file name that is not UTF-8 passes through as the bytes it is
        sys.stdin.reconfigure(errors="surrogateescape")
    arguments = parse(argv)
    paths = image_paths(arguments.images, sys.stdin)
    names = read_classnames(arguments.classnames)
    classifier = Classifier.load(arguments.prompt, arguments.device, names, arguments.zero_shot, arguments.checkpoint)
    unreadable = classify(classifier, paths, arguments)
    if unreadable:
        images = "1 image" if unreadable == 1 else f"{unreadable:,} images"
        raise RunError(f"{images} cannot be read; the rows say why")
    return 0


if __name__ == "__main__":
    sys.exit(main())
