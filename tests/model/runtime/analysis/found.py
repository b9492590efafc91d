"""Findings that the tests of all files share: masks with holes, in parts, that touch at corners, or are empty."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.runtime.analysis.findings import Findings
from model.runtime.detections import Detections
from model.runtime.kernels.rle import encode_bitmap

Bitmap = NDArray[np.bool_]
SIZE = (40, 60)
NAMES = ("cell", "ring, broken")


def shapes() -> dict[str, Bitmap]:
    """bool [40, 60] each."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    chessboard = ((x + y) % 2 == 0) & (x < 5) & (y < 4)
    parts = np.hypot(y - 30, x - 50) < 6
    parts |= np.hypot(y - 8, x - 40) < 5
    ring = np.abs(np.hypot(y - 20, x - 25) - 10) < 3
    holes = np.zeros(SIZE, np.bool_)
    holes[25:35, 2:14] = True
    holes[27, 4] = holes[28, 5] = False  # they touch at a corner
    holes[30:33, 7:10] = False
    holes[31, 8] = True  # an island
    corner = np.zeros(SIZE, np.bool_)
    corner[1:3, 56:58] = corner[3:5, 58:60] = True
    named = {
        "disc": np.hypot(y - 15, x - 20) < 9,
        "ring": ring,
        "two parts": parts,
        "holes that touch and an island": holes,
        "parts that touch at a corner": corner,
        "chessboard": chessboard,
        "one pixel in the last corner": (y == SIZE[0] - 1) & (x == SIZE[1] - 1),
        "all": np.ones(SIZE, np.bool_),
    }
    return {name: np.asarray(mask) for name, mask in named.items()}


def found(*masks: Bitmap, **more: Any) -> Findings:
    """The masks as detections in falling score, their labels in turns; each box is its mask's, less a quarter pixel."""
    boxes = []
    for mask in masks:
        ys, xs = np.nonzero(mask)
        boxes.append([xs.min() + 0.25, ys.min() + 0.25, xs.max() + 1, ys.max() + 1] if len(xs) else [1, 2, 3, 4])
    count = len(masks)
    detections = Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.1, count, dtype=np.float32),
        1 + np.arange(count) % 2,
        [encode_bitmap(mask) for mask in masks],
    )
    return Findings(detections, NAMES, masks[0].shape if masks else SIZE, **more)  # type: ignore[arg-type]  # two sides


def without_masks(findings: Findings) -> Findings:
    seen = findings.detections
    return Findings(Detections(seen.boxes, seen.scores, seen.labels), NAMES, findings.size, findings.values)


def filled(rings: list[Any], size: tuple[int, int]) -> Bitmap:
    """The pixels whose centers lie inside of rings [N, 2] of any shape, by the even-odd rule."""
    height, width = size
    xs, ys = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    inside = np.zeros(size, np.bool_)
    for ring in rings:
        points = np.asarray(ring, float).reshape(-1, 2)
        for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if y1 != y2:
                crosses = (y1 <= ys) != (y2 <= ys)
                inside ^= crosses & (xs > x1 + (ys - y1) * (x2 - x1) / (y2 - y1))
    return inside
