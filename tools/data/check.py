"""Checks a dataset on disk: counts against the published split, and every missing or unreadable file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from datasets import DATASETS, PARTS, Sizes
from datasets.images import MissingImageError
from datasets.pieces import Piece
from datasets.roots import dataset_folder
from datasets.sources import SOURCES
from datasets.split import Dataset, Item, load_dataset
from tools.common.tables import aligned
from utils.errors import UserError
from utils.files import is_terminal
from utils.parallel import parallel_map

COLUMNS = ("dataset", "folder", "split", "classes", *PARTS, "missing", "unreadable", "")
SHOWN = 5
AHEAD = 256


@dataclass
class Finding:
    """One row of the table, and a line for each problem."""

    name: str
    folder: str
    cells: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    here: bool = True

    def row(self) -> list[str]:
        cells = {"dataset": self.name, "folder": self.folder, "": "ok" if not self.wrong else "wrong"} | self.cells
        if not self.here:
            cells[""] = "not here"
        return [cells.get(column, "–") for column in COLUMNS]


def check(names: list[str], root: str, open_images: bool) -> bool:
    """Prints the table and all problems. True if the named datasets, or all that exist, have none."""
    if not Path(root).is_dir():
        advice = "name the folder that holds your datasets (DATASET.md has their sources)"
        raise UserError(f"--root_path: {root}: no such folder; {advice}")
    named = bool(names)
    findings = [check_dataset(name, root, open_images) for name in names or SOURCES]
    present = [finding for finding in findings if finding.here or named]
    print(aligned([COLUMNS, *(finding.row() for finding in findings)]))
    for finding in present:
        for line in finding.wrong:
            print(f"{finding.name}: {line}")
    if not named:
        absent = [finding.name for finding in findings if not finding.here]
        if absent:
            print(f"not here: {', '.join(absent)}; name one to see where it comes from")
        if not present:
            print(f"error: {root}: holds none of the datasets in CoOp's layout")
            return False
    return not any(finding.wrong for finding in present)


def check_dataset(name: str, root: str, open_images: bool) -> Finding:
    """The state of one dataset. Images are opened, or only checked for existence."""
    info = DATASETS[name]
    try:
        folder = dataset_folder(name, root) if info.folder else Path()
    except UserError as error:
        expected = Path(root) / info.folder
        lines = [str(error)] if expected.exists() else [_missing(piece, name, expected, root) for piece in _pieces(name)]
        return Finding(name, str(expected), wrong=lines, here=expected.exists())
    finding = Finding(name, str(folder) if info.folder else "bundled")
    absent = [piece for piece in _pieces(name) if not piece.present(folder)]
    finding.wrong += [_missing(piece, name, folder, root) for piece in absent]
    if info.split:
        finding.cells["split"] = "there" if (folder / info.split).is_file() else "missing"
    try:
        dataset = load_dataset(name, root)
    except UserError as error:
        # A missing piece explains why it cannot be read.
        finding.wrong += [] if absent else [str(error)]
        return finding
    _count(finding, dataset, info.sizes)
    _look_at_images(finding, dataset, open_images)
    return finding


def _pieces(name: str) -> tuple[Piece, ...]:
    return SOURCES[name].pieces if name in SOURCES else ()


def _missing(piece: Piece, name: str, folder: Path, root: str) -> str:
    how = f"with `python -m tools.data download {name} --root_path {root}`" if piece.download else "by hand"
    note = f" ({piece.note})" if piece.note else ""
    return f"{folder / piece.path}: missing; from {piece.page}{note}; get it {how}"


def _count(finding: Finding, dataset: Dataset, sizes: Sizes | None) -> None:
    found = Sizes(len(dataset.classnames), *(len(getattr(dataset, part)) for part in PARTS))
    for column, there, known in zip(("classes", *PARTS), found, sizes or found, strict=True):
        finding.cells[column] = str(there) if there == known else f"{there} of {known}"
        if there != known:
            finding.wrong.append(f"{column}: {there}, where the published split has {known}")
    for part in PARTS:
        items = getattr(dataset, part)
        absent = set(range(found.classes)) - {item.label for item in items}
        if items and absent:
            finding.wrong.append(f"{part}: class {dataset.classnames[min(absent)]!r} has no images")
    trained = {item.path for item in (*dataset.train, *dataset.val)}
    shared = [item.path for item in dataset.test if item.path in trained]
    if shared:
        finding.wrong.append(f"test: {len(shared)} images are in train or val too, first {shared[0]}")


def _look_at_images(finding: Finding, dataset: Dataset, open_images: bool) -> None:
    items = [item for part in PARTS for item in getattr(dataset, part)]

    def problem(item: Item) -> tuple[str, str] | None:
        try:
            if dataset.stamp:
                dataset.stamp(item)
            if open_images:
                dataset.open_image(item)
        except UserError as error:
            return ("missing" if isinstance(error, MissingImageError) else "unreadable"), str(error)
        return None

    found: dict[str, list[str]] = {"missing": [], "unreadable": []}
    bar = tqdm(parallel_map(problem, items, AHEAD), total=len(items), desc=finding.name, unit="img", disable=not is_terminal())
    for result in bar:
        if result:
            found[result[0]].append(result[1])
    for kind, lines in found.items():
        finding.cells[kind] = str(len(lines)) if kind == "missing" or open_images or lines else "not opened"
        finding.wrong += lines[:SHOWN]
        if len(lines) > SHOWN:
            finding.wrong.append(f"and {len(lines) - SHOWN} more images are {kind}")
