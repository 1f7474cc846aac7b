"""From what an image file stores to 8-bit RGB: gray of any depth, transparency, and EXIF orientation."""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image

# the EXIF orientations 2 to 8, by what makes the picture upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112
# formats whose integers of more than 8 bits are known to fill 16
SIXTEEN_BIT = ("PNG", "PPM")


def to_rgb(image: Image.Image, as_displayed: bool) -> Image.Image:
    """`image` in RGB, gray of any depth scaled to 8 bits as a viewer would.

    `as_displayed`: also turned upright by its EXIF orientation, and transparent parts on white. Without it, the pixels as stored
    and transparency dropped, which is what CoOp's `convert("RGB")` does. Raises ValueError for values of no known range.
    """
    image.load()
    kind, orientation = image.format, _orientation(image) if as_displayed else 1
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(np.asarray(image), image.mode, kind))
    if as_displayed and image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB")
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 without one, and where the block cannot be parsed, in which case the pixels are still readable."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except (OSError, SyntaxError, struct.error, ValueError, TypeError, LookupError):
        return 1


def _eight_bits(values: np.ndarray, mode: str, kind: str | None) -> np.ndarray:
    """Gray values (H, W) of a 16-bit, 32-bit or float picture as uint8.

    16-bit values reach 65535. Formats do not state the range of 32-bit values, so the smallest usual range that holds them is
    assumed: 0 to 1 for floats, else 0 to 255 or 0 to 65535.
    """
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("its floating-point values include NaN or infinity")
    if mode.startswith("I;16") or (mode == "I" and kind in SIXTEEN_BIT):
        top = 65535.0
    else:
        usual = (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
        top = next((top for top in usual if high <= top), 0.0)
    if low < 0 or not top:
        raise ValueError(f"its values, {low:g} to {high:g}, are not a known range of gray levels; save it with 8 or 16 bits")
    return (values.astype(np.float64) * (255.0 / top)).round().astype(np.uint8)
