"""EXIF orientations (EXIF 2.3, tag 0x0112): how a stored picture lies, and what puts it upright."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.picture import Picture, Size

UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_LEAD: Final = b"Exif\0\0"
_ORDERS: Final = {b"II*\0": "<", b"MM\0*": ">"}
_ORIENTATION: Final = 0x0112
_NUMBERS: Final = {3: "H", 4: "I"}
"""TIFF's types of which an orientation may be."""

_FLIPPED_ROWS: Final = (3, 4, 6, 7)
_FLIPPED_COLUMNS: Final = (2, 3, 7, 8)
"""Orientations whose rows are stored from the bottom, and whose columns from the right."""

_Values = TypeVar("_Values", bound=np.generic)


def exif_orientation(image: Image.Image) -> int:
    """1..8, of the EXIF block alone: `getexif` would take one of XMP, which viewers do not turn by.

    1 when there is none or the EXIF block is broken, which does not break the picture.
    """
    block = image.info.get("exif")
    return _orientation_in(block) if isinstance(block, bytes) else 1


def _orientation_in(block: bytes) -> int:
    """Of the block's first directory, of which nothing else is read. Pillow would read all of it."""
    block = block.removeprefix(_LEAD).removeprefix(_LEAD)
    order = _ORDERS.get(block[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", block, 4)
        (tags,) = struct.unpack_from(order + "H", block, at)
        for entry in range(at + 2, at + 2 + 12 * tags, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", block, entry)
            if tag == _ORIENTATION and kind in _NUMBERS and count == 1:
                (value,) = struct.unpack_from(order + _NUMBERS[kind], block, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # it is cut short
        pass
    return 1


def stored_part(
    part: tuple[int, int, int, int], stored: tuple[int, int], orientation: int
) -> tuple[int, int, int, int]:
    """Where a part of the upright picture lies in the stored one of size `stored` (height, width); (top, left, height,
    width) both."""
    top, left, height, width = part
    if orientation >= 5:
        top, left, height, width = left, top, width, height
    if orientation in _FLIPPED_ROWS:
        top = stored[0] - top - height
    if orientation in _FLIPPED_COLUMNS:
        left = stored[1] - left - width
    return top, left, height, width


def turned_size(size: Size, orientation: int) -> Size:
    """The size of a picture of `size` once it is upright, and the other way round."""
    return (size[1], size[0]) if orientation >= 5 else size


def put_upright(image: Image.Image, orientation: int) -> Image.Image:
    """The stored image upright."""
    return image if orientation == 1 else image.transpose(UPRIGHT[orientation])


def turned(picture: Picture, orientation: int) -> Picture:
    """The picture upright. An orientation that is none of 2..8 leaves it as it is."""
    if orientation not in UPRIGHT:
        return picture
    transparent = picture.transparent
    return replace(
        picture,
        values=_turned(picture.values, orientation),
        transparent=None if transparent is None else _turned(transparent, orientation),
    )


def _turned(values: NDArray[_Values], orientation: int) -> NDArray[_Values]:
    if orientation in _FLIPPED_COLUMNS:
        values = values[:, ::-1]
    if orientation in _FLIPPED_ROWS:
        values = values[::-1]
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    return np.ascontiguousarray(values)
