"""What is measured of each object: its shape from its RLE, and the intensities of the image under it.

The numbers agree with scikit-image's `regionprops` on the same masks and the same image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.runtime.analysis.findings import Findings
from model.runtime.detections import RLE
from model.runtime.images.regions import PictureByRegion
from model.runtime.kernels.regions import Region, measure_region
from model.runtime.kernels.rle import decode_part

AT_ONCE: Final = 1 << 20
"""Pixels of an object's box that are decoded at a time: its mask never is as a whole, if it is large."""
NEAR: Final = 512
"""Rows of a picture whose objects are measured from left to right, where it is read part by part."""


@dataclass(frozen=True, slots=True)
class Intensities:
    """Of one channel, by its number in the file, under a mask, in the file's own values; NaN where one of them is."""

    channel: int
    mean: float
    least: float
    largest: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One object. The area is in pixels, and in square micrometers where their size is known.

    diameter: of a circle of that area, in pixels and in micrometers. intensities: an entry a channel; none where no
    image is at hand, or the mask has no pixel.
    """

    region: Region
    diameter: float
    area_um2: float | None
    diameter_um: float | None
    intensities: tuple[Intensities, ...]


def measure(findings: Findings) -> list[Measurement] | None:
    """One for each detection; None when there are no masks."""
    masks = findings.detections.masks
    if masks is None:
        return None
    regions = [measure_region(mask) for mask in masks]
    rows = list(range(len(masks)))
    if isinstance(findings.values, PictureByRegion):  # which decodes little twice if it is read row by row
        rows.sort(key=lambda row: (regions[row].top // NEAR, regions[row].left))
    measured = {row: _measured(masks[row], regions[row], findings) for row in rows}
    return [measured[row] for row in range(len(masks))]


def _measured(mask: RLE, region: Region, findings: Findings) -> Measurement:
    area_um2 = diameter_um = None
    if (pixel := findings.pixel_size) is not None:
        area_um2 = region.area * pixel.x * pixel.y
        diameter_um = sqrt(4 * area_um2 / pi)
    intensities: tuple[Intensities, ...] = ()
    if findings.values is not None and region.area:
        intensities = _intensities(mask, region, findings.values, findings.channels)
    return Measurement(region, sqrt(4 * region.area / pi), area_um2, diameter_um, intensities)


def _intensities(
    mask: RLE, region: Region, values: NDArray[Any] | PictureByRegion, channels: Sequence[int]
) -> tuple[Intensities, ...]:
    with np.errstate(invalid="ignore", over="ignore"):  # infinities of both signs have no sum, floats may have too much
        pieces = [_summed(pixels) for pixels in _pixels(mask, region, values)]
        sums, least, largest = zip(*pieces, strict=True)
        columns = zip(channels, np.sum(sums, 0), np.min(least, 0), np.max(largest, 0), strict=True)
    return tuple(
        Intensities(channel, float(total / region.area), float(low), float(high))
        for channel, total, low, high in columns
    )


def _summed(pixels: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[Any]]:
    """Sum, least and largest of each channel of [N, C]."""
    return pixels.sum(0, dtype=np.float64), pixels.min(0), pixels.max(0)


def _pixels(mask: RLE, region: Region, values: NDArray[Any] | PictureByRegion) -> Iterator[NDArray[Any]]:
    """The image's values under the mask, [N, C], a part of the mask's box at a time."""
    rows = max(1, AT_ONCE // region.width)
    for top in range(region.top, region.top + region.height, rows):
        height = min(rows, region.top + region.height - top)
        inside = decode_part(mask, (top, region.left, height, region.width), (height, region.width)) > 0
        if inside.any():
            if isinstance(values, PictureByRegion):
                part = values.read(top, region.left, height, region.width).values
            else:
                part = values[top : top + height, region.left : region.left + region.width]
            yield part[inside].reshape(inside.sum(), -1)
