"""Whether a box is that of a mask, and the other forms in which tools write boxes."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

CORNERS: Final = "x1, y1, x2, y2"
CENTERS: Final = "center x, center y, width, height"
NEAR: Final = 3.0
"""Pixels by which a box's sides may miss those of its mask, however small the object."""
LEAST_IOU: Final = 0.5
"""Overlap of a box with the bounds of its mask."""
LEAST_SEEN: Final = 0.1
"""Overlap where the box holds the whole mask: some data have boxes of hidden parts too."""
EXACT: Final = 1.0
"""Pixels by which a box of another form may miss the mask."""


def other_forms(bounds: Values) -> dict[str, Values]:
    """Boxes [N, 4] (x, y, width, height) in the forms that they are mistaken for, by what those are called."""
    low, size = bounds[:, :2], bounds[:, 2:]
    return {
        CORNERS: np.concatenate([low, low + size], axis=1),
        CENTERS: np.concatenate([low + size / 2, size], axis=1),
        "y, x, height, width": bounds[:, [1, 0, 3, 2]],
        "y1, x1, y2, x2": np.concatenate([low[:, ::-1], (low + size)[:, ::-1]], axis=1),
    }


def overlaps(boxes: Values, others: Values) -> Values:
    """float64 [N], IoU of boxes [N, 4] with others, each (x, y, width, height)."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:])
    both = (high - low).clip(0).prod(axis=1)
    either = boxes[:, 2:].prod(axis=1) + others[:, 2:].prod(axis=1) - both
    return np.asarray(both / np.maximum(either, np.finfo(np.float64).tiny))


def misses(boxes: Values, others: Values) -> Values:
    """float64 [N], pixels by which a side of boxes [N, 4] is away from that of others."""
    apart = boxes - others
    return np.asarray(np.abs(np.concatenate([apart[:, :2], apart[:, :2] + apart[:, 2:]], axis=1)).max(axis=1))


def hold(boxes: Values, others: Values) -> NDArray[np.bool_]:
    """bool [N], whether boxes [N, 4] reach around others, but for NEAR pixels."""
    low = (boxes[:, :2] <= others[:, :2] + NEAR).all(axis=1)
    high = (boxes[:, :2] + boxes[:, 2:] >= others[:, :2] + others[:, 2:] - NEAR).all(axis=1)
    return np.asarray(low & high)


def box_fault(xywh: Values, bounds: Values | None) -> str | None:
    """Why a box [4] cannot be that of a mask with these bounds [4], both (x, y, width, height); None where it can, and
    for a mask of less than a pixel a side, which says nothing."""
    if bounds is None or bounds[2:].min() < 1:
        return None
    box, mask = xywh[None], bounds[None]
    if misses(box, mask)[0] <= NEAR:
        return None
    for form, boxes in other_forms(mask).items():
        if np.abs(box - boxes).max() <= EXACT:
            return f"is not that of its mask, {listed(bounds)}: it looks like {form}"
    overlap = float(overlaps(box, mask)[0])
    if overlap >= LEAST_IOU or (overlap >= LEAST_SEEN and hold(box, mask)[0]):
        return None
    how = "is far larger than" if hold(box, mask)[0] else "lies away from"
    return f"{how} its mask, {listed(bounds)} (IoU {overlap:.2f})"


def listed(xywh: Values) -> str:
    """A box as messages write it."""
    return f"[{', '.join(f'{number:g}' for number in xywh)}]"
