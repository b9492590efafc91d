"""EXIF orientation of annotations: some tools annotate the picture as seen, `Dataset` counts pixels as stored.

Coordinates are continuous (0 is the left or top edge of the first pixel). Sizes are (width, height) as stored.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.orientation import exif_orientation

_FLIPS: Final = {
    2: (True, False),
    3: (True, True),
    4: (False, True),
    5: (False, False),
    6: (False, True),
    7: (True, True),
    8: (True, False),
}
"""EXIF 2.3, tag Orientation: mirror x, mirror y of the stored picture; from 5 on, x and y then change places."""


def orientation_of(image: Image.Image) -> int:
    """1 to 8; 1, as it lies, where the tag is missing or senseless. Pillow turns TIFFs by itself."""
    if image.format == "TIFF":
        return 1
    return exif_orientation(image)


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) as seen."""
    return (size[1], size[0]) if orientation >= 5 else size


def points_to_stored(points: NDArray[np.float64], size: tuple[int, int], orientation: int) -> NDArray[np.float64]:
    """Points [P, 2] (x, y) of the picture as seen, as float64 [P, 2] of the stored one."""
    if orientation == 1:
        return points
    return _mirror(points[:, ::-1] if orientation >= 5 else points, size, orientation)


def points_to_upright(points: NDArray[np.float64], size: tuple[int, int], orientation: int) -> NDArray[np.float64]:
    """The way back."""
    if orientation == 1:
        return points
    mirrored = _mirror(points, size, orientation)
    return mirrored[:, ::-1] if orientation >= 5 else mirrored


def pixels_to_stored(pixels: NDArray[np.int64], orientation: int) -> NDArray[np.int64]:
    """Pixels [H, W] of the picture as seen, as [h, w] of the stored one."""
    if orientation == 1:
        return pixels
    mirror_x, mirror_y = _FLIPS[orientation]
    turned = pixels.T if orientation >= 5 else pixels
    return turned[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]


def _mirror(points: NDArray[np.float64], size: tuple[int, int], orientation: int) -> NDArray[np.float64]:
    mirror = np.array(_FLIPS[orientation])
    return np.where(mirror, np.array(size) - points, points)
