"""A box belongs to its mask, or it is said what is wrong with it."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.annotations.boxes import box_fault

MASK = (30, 20, 40, 24)


@pytest.mark.parametrize(
    ("box", "mask", "fault"),
    [
        pytest.param(MASK, MASK, None, id="the same"),
        pytest.param((29.4, 19.5, 41, 25), MASK, None, id="rounded"),
        pytest.param((27, 17, 46, 30), MASK, None, id="three pixels around"),
        pytest.param((50, 50, 7, 7), (52, 52, 2, 2), None, id="a small object, within pixels"),
        pytest.param((30, 20, 40, 14), MASK, None, id="more than half of it"),
        pytest.param((20, 10, 70, 50), MASK, None, id="hidden parts too"),
        pytest.param((50, 50, 90, 90), (60, 60, 0.5, 9), None, id="a line says nothing"),
        pytest.param((50, 50, 90, 90), None, None, id="no mask"),
        pytest.param((36, 26, 28, 12), MASK, "lies away from its mask", id="a part of it"),
        pytest.param((40, 26, 20, 12), MASK, "IoU 0.25", id="half its sides"),
        pytest.param((70, 20, 40, 24), MASK, "IoU 0.00", id="beside it"),
        pytest.param((50, 20, 40, 24), MASK, "lies away", id="half beside it"),
        pytest.param((0, 0, 200, 150), MASK, "is far larger than its mask", id="the whole image"),
        pytest.param((60, 40, 80, 48), MASK, "lies away", id="of a picture twice as large"),
        pytest.param((15, 10, 20, 12), MASK, "lies away", id="of a picture half as large"),
        pytest.param((30, 20, 70, 44), MASK, "looks like x1, y1, x2, y2", id="corners, which hold the mask"),
        pytest.param((5, 4, 85, 64), (5, 4, 80, 60), "looks like x1, y1, x2, y2", id="corners that overlap well"),
        pytest.param((30.4, 19.8, 69.6, 44.3), MASK, "looks like x1, y1, x2, y2", id="rounded corners"),
        pytest.param((50, 32, 40, 24), MASK, "looks like center x, center y", id="the center"),
        pytest.param((20, 30, 24, 40), MASK, "looks like y, x, height, width", id="rows before columns"),
        pytest.param((20, 30, 44, 70), MASK, "looks like y1, x1, y2, x2", id="corners, rows before columns"),
        pytest.param((1, 2, 41, 26), (1, 2, 40, 24), None, id="near the image's corner both forms are one box"),
    ],
)
def test_a_box_is_that_of_its_mask_or_its_fault_is_told(
    box: tuple[float, ...], mask: tuple[float, ...] | None, fault: str | None
) -> None:
    found = box_fault(np.array(box, np.float64), None if mask is None else np.array(mask, np.float64))
    if fault is None:
        assert found is None
    else:
        assert found is not None
        assert fault in found
