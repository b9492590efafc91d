"""Boxes of a COCO file that are written in another form than x, y, width, height."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE
from training.data.annotations.boxes import (
    CENTERS,
    CORNERS,
    LEAST_IOU,
    NEAR,
    box_fault,
    listed,
    misses,
    other_forms,
    overlaps,
)
from training.data.annotations.dataset import DatasetError
from training.data.annotations.fields import BrokenRecord, integer
from training.data.annotations.repair import BORDER, Repairs, mask_bounds
from training.data.formats.coco.segmentation import read_segmentation

Values = NDArray[np.float64]

LEAST_BOXES: Final = 3
"""Fewer boxes show no pattern."""
MOST_RLES: Final = 1000
"""More need not be decoded to show one."""
NONE: Final = (np.nan,) * 4
_SHARES: Final = "shares of the image's sides"
_OUT: Final = 0.1
"""Share of boxes out of their image from which another form is looked for."""


def check_box_form(annotations: list[Any], sizes: Mapping[int, tuple[int, int]], path: Path) -> tuple[str, ...]:
    """What to say of boxes that hold more than their masks.

    Raises DatasetError where most boxes are of another form, as their masks show, or without masks the images of
    `sizes` (width, height), by id.
    """
    boxes, sides, masks = _gather(annotations, sizes)
    known = np.isfinite(masks).all(axis=1)
    if len(boxes) < LEAST_BOXES:
        return _larger(boxes[known], masks[known])
    form = _by_masks(boxes[known], masks[known], sides[known]) if known.sum() >= LEAST_BOXES else None
    if form is None and not known.any():
        form = _by_images(boxes, sides)
    if form is not None:
        raise DatasetError(
            f"{path}: its boxes are {form}, as most of {len(boxes)} show; COCO's bbox is x, y, width, height in "
            f"pixels: convert them, or leave out 'bbox' where objects have masks"
        )
    return _larger(boxes[known], masks[known])


def _larger(boxes: Values, masks: Values) -> tuple[str, ...]:
    """A note on boxes that are kept though their masks fill less than half of them."""
    loose = (overlaps(boxes, masks) < LEAST_IOU) & (misses(boxes, masks) > NEAR)
    rows = [row for row in np.flatnonzero(loose).tolist() if box_fault(boxes[row], masks[row]) is None]
    if not rows:
        return ()
    first = f"box {listed(boxes[rows[0]])} of the mask in {listed(masks[rows[0]])} (x, y, width, height)"
    return (f"{len(rows)} boxes are more than twice as large as their masks, and are kept; first: {first}",)


def _gather(annotations: list[Any], sizes: Mapping[int, tuple[int, int]]) -> tuple[Values, Values, Values]:
    """float64 [N, 4] boxes as written, [N, 2] sides of their images, and [N, 4] (x, y, width, height) around their
    masks, NaN without any."""
    boxes, sides, masks = [], [], []
    decoded = 0
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
        segmentation = record.get("segmentation")
        if isinstance(segmentation, dict):
            masks.append(_rle_bounds(segmentation, size) if decoded < MOST_RLES else NONE)
            decoded += 1
        else:
            masks.append(_bounds(segmentation))
    return (
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(sides, np.float64).reshape(-1, 2),
        np.array(masks, np.float64).reshape(-1, 4),
    )


def _rle_bounds(rle: Mapping[str, Any], size: tuple[int, int]) -> tuple[float, ...]:
    try:
        mask = read_segmentation(rle, "an annotation", Repairs())
    except BrokenRecord:  # named where it is read
        return NONE
    bounds = mask_bounds(mask) if isinstance(mask, RLE) and mask.size == size[::-1] else None
    return NONE if bounds is None else tuple(bounds.tolist())


def _bounds(polygons: Any) -> tuple[float, ...]:
    """Plain loops: most polygons are short, and a dataset has many."""
    if not isinstance(polygons, list) or not polygons:
        return NONE
    try:
        xs = [value for ring in polygons for value in ring[::2]]
        ys = [value for ring in polygons for value in ring[1::2]]
        low_x, low_y = min(xs), min(ys)
        return float(low_x), float(low_y), float(max(xs) - low_x), float(max(ys) - low_y)
    except (TypeError, ValueError, KeyError, IndexError):  # not polygons: the reader says what it is
        return NONE


def _by_masks(boxes: Values, masks: Values, sides: Values) -> str | None:
    """The form in which most boxes are those of their masks, if it is not x, y, width, height."""
    forms = other_forms(masks)
    shares = masks / np.tile(sides, 2)
    if _near(boxes, masks, NEAR) > 0.5:
        return None
    if _near(boxes, shares, 0.02) > 0.5:
        return _SHARES
    best = max(forms, key=lambda form: _near(boxes, forms[form], NEAR))
    return best if _near(boxes, forms[best], NEAR) > 0.5 else None


def _near(boxes: Values, others: Values, tolerance: float) -> float:
    """The share of boxes that are the others'."""
    return float((np.abs(boxes - others).max(axis=1) <= tolerance).mean())


def _by_images(boxes: Values, sides: Values) -> str | None:
    """The form in which every box fits its image, where many do not as x, y, width, height; shares, where no box is
    larger than a pixel."""
    if ((boxes >= 0) & (boxes <= 1)).all() and (sides > 4).all():
        return _SHARES
    first, second = boxes[:, :2], boxes[:, 2:]
    out = (first + second > sides + BORDER).any(axis=1)
    if out.mean() <= _OUT:
        return None
    if ((second > first) & (second <= sides + BORDER)).all():
        return CORNERS
    low, high = first - second / 2, first + second / 2
    return CENTERS if out.sum() >= LEAST_BOXES and ((low >= -BORDER) & (high <= sides + BORDER)).all() else None
