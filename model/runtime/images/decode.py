"""From an uploaded file to pixels: uint8 RGB as a person sees the picture, or an error that says what is wrong with it.

`reading` makes a picture of the bytes, `pixels` 8 bits of its values.

How pictures become RGB:
- EXIF orientation is applied; animations and multi-page files give their first picture.
- Transparent pixels are laid over white, as a page shows them. What hides under full transparency is not seen.
- Values of more than 8 bits: see `intensity`.
- CMYK JPEGs are read as Adobe writes them (inverted). ICC profiles are not applied.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.runtime.images.errors import ImageError
from model.runtime.images.limits import DEFAULT_LIMITS, ImageLimits
from model.runtime.images.planes import FIRST_PLANE, PlaneChoice
from model.runtime.images.reading import read_picture
from model.runtime.images.values.intensity import AUTO, Intensity
from model.runtime.images.values.pixels import to_pixels


def decode_image(
    data: bytes,
    limits: ImageLimits = DEFAULT_LIMITS,
    *,
    upright: bool = True,
    intensity: Intensity = AUTO,
    choice: PlaneChoice = FIRST_PLANE,
) -> NDArray[np.uint8]:
    """The picture as seen: uint8 [H, W, 3] RGB, or [H, W, C] of the C inputs that `choice` asks for. May be read-only.
    Releases the GIL while decoding.

    `upright`, `choice` and the errors: as `read_picture`. `intensity`, and its errors: as `to_uint8`.
    """
    picture = read_picture(data, limits, upright=upright, choice=choice)
    return np.ascontiguousarray(to_pixels(picture, intensity, choice.inputs)[0])


def load_image(
    path: Path,
    limits: ImageLimits = DEFAULT_LIMITS,
    *,
    upright: bool = True,
    intensity: Intensity = AUTO,
    choice: PlaneChoice = FIRST_PLANE,
) -> NDArray[np.uint8]:
    """`decode_image` of a file. The errors name it."""
    try:
        return decode_image(path.read_bytes(), limits, upright=upright, intensity=intensity, choice=choice)
    except ImageError as error:
        error.add_note(f"in {path}")
        raise
