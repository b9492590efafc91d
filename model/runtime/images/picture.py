"""A decoded picture before its values become the 8 bits that networks take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.runtime.images.planes import Channels, PlaneAxis

Size = tuple[int, int]
"""(height, width) in pixels."""

PixelSizeSource = Literal["request", "ome", "imagej", "tiff"]
LEAST_PIXEL, MOST_PIXEL = 1e-6, 1e6
"""Micrometers of a pixel: less is smaller than any atom, more is no microscope's, and areas of either are soon no
numbers."""


@dataclass(frozen=True, slots=True)
class PixelSize:
    """Micrometers from one pixel to the next along x and y of the picture as seen, and who says so: whoever asks, the
    file's OME-XML, what ImageJ wrote, or TIFF's resolution."""

    x: float
    y: float
    source: PixelSizeSource


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture as its file holds it, upright, where more is brighter.

    `values` is [H, W] gray or [H, W, 3] RGB in the file's own dtype: uint8, uint16, int32, float32, .... Palettes,
    CMYK, YCbCr, L*a*b* and alpha are uint8 RGB already. In the machine's byte order; may be read-only. Where `channels`
    says that the file's channels were taken one by one, it is [H, W, U] of those that are used, rising.
    `significant_bits` is how many of an unsigned dtype's bits the file says that it uses, counted from the lowest: 12
    for values from 0 to 4095 in uint16. None when it says nothing.
    `declared_range` is the (least, greatest) value that the file states for its picture, None when it states none;
    `channel_ranges` are those of each channel where these were taken one by one, of planes that have their own.
    `transparent` is bool [H, W], true where a picture of more than 8 bits is see-through; viewers show white there.
    `plane` says which of several planes this is, an entry for each axis along which the file has more than one.
    `pixel_size` is None where the file does not state it beyond doubt.
    `original` is the size of the picture as seen where `values` have been resized already; None where they have its
    size.
    """

    values: NDArray[Any]
    significant_bits: int | None = None
    declared_range: tuple[float, float] | None = None
    transparent: NDArray[np.bool_] | None = None
    plane: tuple[PlaneAxis, ...] = ()
    pixel_size: PixelSize | None = None
    channels: Channels | None = None
    channel_ranges: tuple[tuple[float, float] | None, ...] = ()
    original: Size | None = None

    @property
    def size(self) -> Size:
        """(height, width) of the picture as seen."""
        return self.original or (self.values.shape[0], self.values.shape[1])
