"""The pictures of the npm package @iconify/json: which sets may be redistributed, how an icon is drawn, when two look alike."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tools.maintain.icon_names import affixes, parse_name

RULES = Path(__file__).with_name("icon_sets.yaml")
SIDE = 32
# a picture whose largest opacity (of 255) is below this is blank: the first frame of an animation, or a missing font
FAINTEST = 40
# colors of one picture that differ by at most this (of 255) count as one color
SAME_COLOR = 16


@dataclass(frozen=True)
class Picture:
    """One icon: its origin, what its name and its set's categories say, and what it looks like.

    `hash`: 8 bytes of the SHA-256 of its pixels, or of its opacity if it has one color, so that a drawing has the same hash in
    black, white and blue.
    """

    prefix: str
    name: str
    position: int
    subject: str
    manner: str
    category: str
    hash: bytes

    @property
    def path(self) -> str:
        return f"{self.prefix}/{self.name}"


def read_rules() -> dict[str, Any]:
    return yaml.safe_load(RULES.read_text())


def permitted_prefixes(package: Path, refused: Iterable[str]) -> list[str]:
    """The icon sets whose SPDX license contains none of `refused`, sorted."""
    collections = json.loads((package / "collections.json").read_text())
    licenses = {prefix: info["license"].get("spdx", "") for prefix, info in collections.items()}
    return sorted(p for p, spdx in licenses.items() if spdx and not any(word in spdx for word in refused))


def draw_icon(document: dict[str, Any], icon: dict[str, Any]) -> np.ndarray | None:
    """The icon centered on a transparent square, (SIDE, SIDE, 4) uint8 RGBA; None if it is blank or cannot be drawn."""
    import resvg_py

    def value(key: str, default: float) -> float:
        return icon.get(key, document.get(key, default))

    width, height = value("width", 16), value("height", 16)
    side = max(width, height)
    left, top = value("left", 0) - (side - width) / 2, value("top", 0) - (side - height) / 2
    still = re.sub(r"<animate[^>]*?/>|<set [^>]*?/>", "", icon["body"]).replace("currentColor", "#000")
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIDE}" height="{SIDE}" viewBox="{left} {top} {side} {side}">{still}</svg>'
    )
    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))
    except ValueError:
        return None
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
    return pixels if pixels.shape == (SIDE, SIDE, 4) and pixels[..., 3].max() >= FAINTEST else None


def draw(package: Path, drawn: Path) -> None:
    """Writes one file per permitted set: `x` (n, SIDE, SIDE, 4) uint8 and `names`. Existing files are not rewritten."""
    drawn.mkdir(parents=True, exist_ok=True)
    for prefix in permitted_prefixes(package, read_rules()["refused_licenses"]):
        path = drawn / f"{prefix}.npz"
        if path.exists():
            continue
        document = json.loads((package / "json" / f"{prefix}.json").read_text())
        shown = {name: icon for name, icon in document["icons"].items() if not icon.get("hidden")}
        pictures = {name: pixels for name, icon in shown.items() if (pixels := draw_icon(document, icon)) is not None}
        part = path.with_suffix(".part.npz")
        np.savez(part, x=np.stack(list(pictures.values())), names=np.array(list(pictures)))
        part.rename(path)
        print(f"{prefix}: {len(pictures)} drawn, {len(shown) - len(pictures)} blank or broken", flush=True)


def has_one_color(pixels: np.ndarray) -> bool:
    """Whether the visible part of `pixels` (H, W, 4) has one color."""
    colors = pixels[..., :3][pixels[..., 3] > 8].astype(int)
    return not len(colors) or int((colors.max(0) - colors.min(0)).max()) <= SAME_COLOR


def picture_hash(pixels: np.ndarray) -> bytes:
    """See `Picture.hash`."""
    opacity = pixels[..., 3]
    visible = opacity if has_one_color(pixels) else np.where(opacity[..., None] > 0, pixels, 0)
    return hashlib.sha256(np.ascontiguousarray(visible).tobytes()).digest()[:8]


def read_pictures(package: Path, drawn: Path, prefix: str) -> list[Picture]:
    """All pictures of one set, in its order."""
    document = json.loads((package / "json" / f"{prefix}.json").read_text())
    suffixes, prefixes = affixes(document, "suffixes"), affixes(document, "prefixes")
    category: dict[str, str] = {}
    for words, names in (document.get("categories") or {}).items():
        for name in names:
            category.setdefault(name, words)
    with np.load(drawn / f"{prefix}.npz") as file:
        pixels, names = file["x"], file["names"].tolist()
    return [
        Picture(prefix, name, i, *parse_name(name, suffixes, prefixes), category.get(name, ""), picture_hash(pixels[i]))
        for i, name in enumerate(names)
    ]
