"""Boxes of a COCO file that are written in another form than x, y, width, height."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.data.annotations.dataset import DatasetError
from training.data.annotations.fields import BrokenRecord, integer
from training.data.annotations.repair import BORDER

Values = NDArray[np.float64]

LEAST_BOXES: Final = 3
"""Fewer boxes show no pattern."""
NEAR: Final = 2.0
"""Pixels by which a box may miss the bounds of its mask."""
_CORNERS: Final = "x1, y1, x2, y2"


def check_box_form(annotations: list[Any], sizes: Mapping[int, tuple[int, int]], path: Path) -> None:
    """Raises DatasetError where most boxes are of another form, as their masks show, or without masks the images of
    `sizes` (width, height), by id."""
    boxes, sides, masks = _gather(annotations, sizes)
    if len(boxes) < LEAST_BOXES:
        return
    known = np.isfinite(masks).all(axis=1)
    form = _by_masks(boxes[known], masks[known], sides[known]) if known.sum() >= LEAST_BOXES else None
    if form is None and not known.any() and _are_corners(boxes, sides):
        form = _CORNERS
    if form is not None:
        raise DatasetError(
            f"{path}: its boxes are {form}, as most of {len(boxes)} show; COCO's bbox is x, y, width, height in "
            f"pixels: convert them, or leave out 'bbox' where objects have masks"
        )


def _gather(annotations: list[Any], sizes: Mapping[int, tuple[int, int]]) -> tuple[Values, Values, Values]:
    """float64 [N, 4] boxes as written, [N, 2] sides of their images, and [N, 4] (x, y, width, height) around their
    polygons, NaN without any."""
    boxes, sides, masks = [], [], []
    for record in annotations:
        if not isinstance(record, dict) or record.get("iscrowd"):
            continue
        box = record.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            continue
        try:
            size = sizes.get(integer(record, "image_id", "an annotation"))
        except BrokenRecord:  # named where it is read
            continue
        if size is None or not all(type(number) in (int, float) for number in box):
            continue
        boxes.append(box)
        sides.append(size)
        masks.append(_bounds(record.get("segmentation")))
    return (
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(sides, np.float64).reshape(-1, 2),
        np.array(masks, np.float64).reshape(-1, 4),
    )


def _bounds(polygons: Any) -> tuple[float, float, float, float]:
    """Plain loops: most polygons are short, and a dataset has many."""
    none = (np.nan,) * 4
    if not isinstance(polygons, list) or not polygons:
        return none
    try:
        xs = [value for ring in polygons for value in ring[::2]]
        ys = [value for ring in polygons for value in ring[1::2]]
        low_x, low_y = min(xs), min(ys)
        return float(low_x), float(low_y), float(max(xs) - low_x), float(max(ys) - low_y)
    except (TypeError, ValueError, KeyError, IndexError):  # not polygons: the reader says what it is
        return none


def _by_masks(boxes: Values, masks: Values, sides: Values) -> str | None:
    """The form in which most boxes are those of their masks, if it is not x, y, width, height."""
    low, size = masks[:, :2], masks[:, 2:]
    forms = {
        _CORNERS: np.concatenate([low, low + size], axis=1),
        "center x, center y, width, height": np.concatenate([low + size / 2, size], axis=1),
        "y, x, height, width": masks[:, [1, 0, 3, 2]],
        "y1, x1, y2, x2": np.concatenate([low[:, ::-1], (low + size)[:, ::-1]], axis=1),
    }
    shares = np.concatenate([low / sides, size / sides], axis=1)
    if _near(boxes, masks, NEAR) > 0.5:
        return None
    if _near(boxes, shares, 0.02) > 0.5:
        return "shares of the image's sides"
    best = max(forms, key=lambda form: _near(boxes, forms[form], NEAR))
    return best if _near(boxes, forms[best], NEAR) > 0.5 else None


def _near(boxes: Values, others: Values, tolerance: float) -> float:
    """The share of boxes that are the others'."""
    return float((np.abs(boxes - others).max(axis=1) <= tolerance).mean())


def _are_corners(boxes: Values, sides: Values) -> bool:
    """Whether every box would fit its image as corners, and many would not as a corner and sides."""
    corners = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (boxes[:, 2:] <= sides + BORDER).all(axis=1)
    out = (boxes[:, :2] + boxes[:, 2:] > sides + BORDER).any(axis=1)
    return bool(corners.all() and out.mean() > 0.2)
