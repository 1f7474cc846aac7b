"""Draws the pictures and captions that the bundled Mini CLIP is trained on.

Every picture shows one printed character (ten digits, 26 capital letters) in one of the fonts that matplotlib ships, in a
drawn style; its caption names the character and part of the style, for instance "a blurry tilted photo of a bold three on a
dark background.". No handwriting is drawn, so scikit-learn's digits remain a domain that Mini was not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 32
CANVAS = 96
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NAMES = (*DIGITS, *(f"letter {c.lower()}" for c in CHARACTERS[10:]))

# attribute → its values; a picture records the index of the value, and no caption names the value None
ATTRIBUTES: dict[str, tuple[str | None, ...]] = {
    "character": NAMES,
    "focus": ("sharp", "blurry", "pixelated"),
    "tilt": ("straight", "tilted"),
    "grain": ("clean", "noisy"),
    "size": ("small", "big"),
    "weight": ("thin", "bold"),
    "family": ("serif", "sans", "typewriter"),
    "slant": ("upright", "italic"),
    "ground": ("on a bright background", "on a dark background"),
    "ink": ("black", "white", "red", "green", "blue", None),
}
TAILS = ("", "", "", ", a type of character", ", a kind of printed sign", ", seen in a picture from a page")
INKS = {
    "black": (15, 15, 15),
    "white": (240, 240, 240),
    "red": (205, 40, 40),
    "green": (40, 165, 60),
    "blue": (50, 70, 210),
}

# file → (family, weight, slant), as indices into ATTRIBUTES
FONTS = {
    "DejaVuSerif.ttf": (0, 0, 0),
    "DejaVuSerif-Bold.ttf": (0, 1, 0),
    "DejaVuSerif-Italic.ttf": (0, 0, 1),
    "DejaVuSerif-BoldItalic.ttf": (0, 1, 1),
    "STIXGeneral.ttf": (0, 0, 0),
    "STIXGeneralBol.ttf": (0, 1, 0),
    "STIXGeneralItalic.ttf": (0, 0, 1),
    "STIXGeneralBolIta.ttf": (0, 1, 1),
    "cmr10.ttf": (0, 0, 0),
    "cmb10.ttf": (0, 1, 0),
    "cmti10.ttf": (0, 0, 1),
    "DejaVuSans.ttf": (1, 0, 0),
    "DejaVuSans-Bold.ttf": (1, 1, 0),
    "DejaVuSans-Oblique.ttf": (1, 0, 1),
    "DejaVuSans-BoldOblique.ttf": (1, 1, 1),
    "cmss10.ttf": (1, 0, 0),
    "DejaVuSansMono.ttf": (2, 0, 0),
    "DejaVuSansMono-Bold.ttf": (2, 1, 0),
    "DejaVuSansMono-Oblique.ttf": (2, 0, 1),
    "DejaVuSansMono-BoldOblique.ttf": (2, 1, 1),
    "cmtt10.ttf": (2, 0, 0),
}


@dataclass(frozen=True)
class Glyphs:
    """`pixels` (n, 32, 32, 3) uint8 and `values` (n, len(ATTRIBUTES)) int64, the index of each attribute's value."""

    pixels: np.ndarray
    values: np.ndarray


def load_fonts() -> list[tuple[ImageFont.FreeTypeFont, tuple[int, int, int]]]:
    """The fonts of FONTS at a height that fills most of the canvas, in a fixed order."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [(ImageFont.truetype(folder / name, 72), style) for name, style in sorted(FONTS.items())]


def draw_glyphs(n: int, rng: np.random.Generator) -> Glyphs:
    """Draws n pictures with characters in equal shares."""
    fonts = load_fonts()
    pixels = np.empty((n, SIDE, SIDE, 3), np.uint8)
    values = np.empty((n, len(ATTRIBUTES)), np.int64)
    characters = rng.permutation(np.arange(n) % len(CHARACTERS))
    for i, character in enumerate(characters):
        pixels[i], values[i] = _draw(int(character), fonts, rng)
    return Glyphs(pixels, values)


def _draw(
    character: int, fonts: Sequence[tuple[ImageFont.FreeTypeFont, Any]], rng: np.random.Generator
) -> tuple[np.ndarray, list[int]]:
    font, (family, weight, slant) = fonts[int(rng.integers(len(fonts)))]
    focus, tilt, grain, size = rng.integers(3), rng.integers(2), rng.integers(2), rng.integers(2)

    mask = Image.new("L", (CANVAS, CANVAS))
    ImageDraw.Draw(mask).text((CANVAS / 2, CANVAS / 2), CHARACTERS[character], fill=255, font=font, anchor="mm")
    box = mask.getbbox()
    assert box is not None, "every character draws something"
    left, top, right, bottom = box
    # `scale`: canvas pixels per image pixel; "small" and "big" refer to the height of the character
    scale = (bottom - top) / (SIDE * (rng.uniform(0.82, 1.05) if size else rng.uniform(0.5, 0.72)))
    angle = np.deg2rad(rng.uniform(12, 28) * rng.choice([-1, 1]) if tilt else rng.uniform(-5, 5))
    stretch, shear = rng.uniform(0.8, 1.25), rng.uniform(-0.15, 0.15)
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = rotate @ np.array([[1 / stretch, shear], [0, 1]]) * scale
    center = np.array([(left + right) / 2, (top + bottom) / 2])
    offset = center - affine @ (np.full(2, SIDE / 2) + rng.uniform(-2, 2, 2))
    matrix = (affine[0, 0], affine[0, 1], offset[0], affine[1, 0], affine[1, 1], offset[1])
    mask = mask.filter(ImageFilter.GaussianBlur(scale / 2)).transform(
        (SIDE, SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    )

    if focus == 1:
        mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(1.0, 2.2)))
    elif focus == 2:
        coarse = int(rng.integers(7, 13))
        mask = mask.resize((coarse, coarse), Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    alpha = np.asarray(mask, np.float64)[..., None] / 255

    ink = int(rng.integers(len(ATTRIBUTES["ink"])))
    name = ATTRIBUTES["ink"][ink]
    color = rng.uniform(0, 255, 3) if name is None else np.array(INKS[name]) + rng.uniform(-15, 15, 3)
    # red, green and blue are visible on light and on dark paper; any other ink requires the opposite brightness
    dark = int(rng.integers(2)) if name in ("red", "green", "blue") else int(color.mean() > 127)
    paper = rng.uniform(0, 60, 3) if dark else rng.uniform(195, 255, 3)
    picture = paper * (1 - alpha) + color * alpha
    if grain:
        picture = picture + rng.normal(0, rng.uniform(12, 32), picture.shape)
    values = [character, focus, tilt, grain, size, weight, family, slant, dark, ink]
    return np.clip(picture, 0, 255).astype(np.uint8), [int(v) for v in values]


def write_captions(values: np.ndarray, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """A caption for each row of `values` (n, attributes), and which attributes it names (n, attributes) bool."""
    names = list(ATTRIBUTES)
    # a third of the captions name only the character, as a zero-shot prompt does
    all_named = rng.random(values.shape) < np.where(rng.random(len(values)) < 0.33, 0.0, 0.35)[:, None]
    all_named[:, 0] = True
    captions = []
    for row, named in zip(values, all_named, strict=True):
        word = {}
        for j, name in enumerate(names):
            word[name] = ATTRIBUTES[name][row[j]] if named[j] else None
            named[j] = word[name] is not None
        before = [word[k] for k in ("focus", "tilt", "grain")]
        middle = [word[k] for k in ("size", "weight", "slant", "ink", "family")]
        words = ["a", *before, "photo of a", *middle, word["character"], word["ground"]]
        captions.append(" ".join(w for w in words if w) + TAILS[rng.integers(len(TAILS))] + ".")
    return captions, all_named
