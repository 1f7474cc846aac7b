"""1,500 simulated textile images from PyPI's conformal-clip-data (MIT; Megahed et al., arXiv 2501.12596), in three classes.

Nominal, local defect and global defect, gray, 250 × 250 pixels. The package has twice as many nominal images; the first 500 by
name are used, so that chance is one third. Each class is split by the rule of `datasets.folder.split_names`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import PARTS
from datasets.folder import split_names
from datasets.listing import image_names
from datasets.packaged import package_folder
from datasets.split import Dataset, Item, of_files

EACH = 500
CLASSES = {"global": "global defect", "local": "local defect", "nominal": "normal texture"}


def read_textile(name: str = "textile", folder: Path | None = None, needed: Sequence[str] = PARTS) -> Dataset:
    """Items have paths "CLASS/FILE". Raises UserError if conformal-clip-data is not installed."""
    images = package_folder(name, "conformal_clip_data") / "data" / "textile_images" / "simulated"
    parts: tuple[list[Item], ...] = ([], [], [])
    for label, (key, words) in enumerate(CLASSES.items()):
        paths = [f"{key}/{file}" for file in image_names(images / key)[:EACH]]
        for items, chosen in zip(parts, split_names(paths), strict=True):
            items += [Item(path, label, words) for path in chosen]
    return of_files(name, list(CLASSES.values()), parts, images)
