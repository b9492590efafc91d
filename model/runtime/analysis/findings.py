"""What there is to write: one image's detections, their names, and the image that they were found in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import Detections
from model.runtime.images.picture import PixelSize
from model.runtime.images.planes import PlaneAxis
from model.runtime.images.regions import PictureByRegion


class NeedsMasks(ValueError):
    """A file that can only be made of masks was asked for, and there are none."""


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """One image's detections in falling score; an object's number is its place, from 1, in every kind of file.

    class_names: names of the labels 1, 2, .... size: (height, width) of the image in pixels.
    values: the image as decoded, [H, W] or [H, W, C] of any integer or float type, or to be read part by part, of which
        intensities are measured; None where they are not asked for.
    plane: which of its file's planes the image is, for each axis along which that has several.
    used: numbers of the file's channels that `values` holds; empty where it holds all of them, or a gray plane.
    """

    detections: Detections
    class_names: Sequence[str]
    size: tuple[int, int]
    values: NDArray[Any] | PictureByRegion | None = None
    pixel_size: PixelSize | None = None
    plane: tuple[PlaneAxis, ...] = ()
    truncated: bool = False
    used: tuple[int, ...] = ()

    @property
    def channels(self) -> tuple[int, ...]:
        """Numbers, from 0, of the channels whose intensities are measured; none without an image."""
        if self.values is None:
            return ()
        if isinstance(self.values, PictureByRegion):
            return self.used or tuple(range(self.values.channels))
        return self.used or tuple(range(1 if self.values.ndim == 2 else int(self.values.shape[2])))

    def name_of(self, row: int) -> str:
        return self.class_names[int(self.detections.labels[row]) - 1]


def corners(box: NDArray[np.float32]) -> list[float]:
    """x1, y1, x2, y2 with the fewest digits that read back as the same float32."""
    return [float(str(value)) for value in box]
