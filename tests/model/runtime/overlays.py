"""Pictures and detections to draw on, and what was drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import Detections
from model.runtime.kernels.rle import encode_bitmap
from model.runtime.overlay import PALETTE

Bitmap = NDArray[np.bool_]
Picture = NDArray[np.uint8]
Box = tuple[float, float, float, float]

ONE = ("nucleus",)
FEW = ("cat", "dog", "cow")
MANY = tuple(f"class {i}" for i in range(1, 21))


def gray(value: int, height: int = 256, width: int = 256) -> Picture:
    return np.full((height, width, 3), value, np.uint8)


def noise(height: int = 256, width: int = 256) -> Picture:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def disc(x: float, y: float, radius: float, height: int = 256, width: int = 256) -> Bitmap:
    rows, columns = np.ogrid[:height, :width]
    return (rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2 < radius**2


def found(
    boxes: Sequence[Box],
    labels: Sequence[int] | None = None,
    masks: Sequence[Bitmap] | None = None,
    keypoints: Sequence[Sequence[tuple[float, float, float]]] | None = None,
) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.99, 0.51, count, dtype=np.float32),
        np.array([1] * count if labels is None else labels, np.int64),
        None if masks is None else [encode_bitmap(mask) for mask in masks],
        None if keypoints is None else np.array(keypoints, np.float32),
    )


def of_masks(masks: Sequence[Bitmap], labels: Sequence[int] | None = None) -> Detections:
    """Detections whose boxes are the masks' own."""
    boxes: list[Box] = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return found(boxes, labels, masks)


def changed(before: Picture, after: Picture) -> Bitmap:
    return np.asarray((before != after).any(axis=2))


def nearest_color(pixel: NDArray[np.uint8]) -> int:
    """The palette entry with which white was tinted."""
    tint = 255.0 - pixel
    palette = 255.0 - np.array(PALETTE)
    cosines = palette @ tint / np.linalg.norm(palette, axis=1) / np.linalg.norm(tint)
    return int(cosines.argmax())


def is_text(picture: Picture) -> Bitmap:
    """Pixels in a label's own color, solid: neither tints nor masks' lines of this small a picture cover much so."""
    return np.asarray((picture[:, :, None] == np.array(PALETTE)).all(axis=3).any(axis=2))
