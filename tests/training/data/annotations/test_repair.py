"""What is mended in an object, whatever file it comes from."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as reference

from model.runtime.detections import RLE
from training.data.annotations.fields import BrokenRecord
from training.data.annotations.repair import Repairs, cut_ring, fit, mask_area, mask_bounds, sound_parts

SIZE = (30, 20)
SQUARE = np.array([[2.0, 3], [12, 3], [12, 13], [2, 13]])


def _rle(left: int, top: int, right: int, bottom: int) -> RLE:
    mask = np.zeros((20, 30), np.uint8, order="F")
    mask[top:bottom, left:right] = 1
    return RLE((20, 30), reference.encode(mask)["counts"])


@pytest.mark.parametrize(
    ("ring", "expected"),
    [
        pytest.param(SQUARE, SQUARE, id="inside: as it is"),
        pytest.param(SQUARE - np.array([5, 0]), [[0, 3], [7, 3], [7, 13], [0, 13]], id="over the left edge"),
        pytest.param(
            SQUARE + np.array([20, 10]), [[22, 13], [30, 13], [30, 20], [22, 20]], id="over the lower right corner"
        ),
        pytest.param([[-9, -9], [99, -9], [99, 99], [-9, 99]], [[0, 0], [30, 0], [30, 20], [0, 20]], id="around it"),
        pytest.param([[20, 5], [40, 10], [20, 15]], [[20, 5], [30, 7.5], [30, 12.5], [20, 15]], id="a tip is cut off"),
        pytest.param(SQUARE + np.array([30, 0]), np.empty((0, 2)), id="beside it"),
        pytest.param([[30, 2], [40, 2], [40, 9], [30, 9]], np.empty((0, 2)), id="touches the edge alone"),
    ],
)
def test_an_outline_is_cut_at_the_borders(ring: object, expected: object) -> None:
    cut = cut_ring(np.array(ring, np.float64), SIZE)
    expected = np.array(expected, np.float64)
    assert cut.shape == expected.shape
    # the same ring, wherever it starts
    assert any(np.allclose(np.roll(cut, shift, axis=0), expected) for shift in range(max(1, len(cut))))


@pytest.mark.parametrize(
    ("mask", "box", "expected", "kinds"),
    [
        pytest.param((SQUARE,), [2, 3, 10, 10], [2, 3, 10, 10], [], id="sound"),
        pytest.param((SQUARE,), [1, 2, 12, 12], [1, 2, 12, 12], [], id="a looser box is the annotator's"),
        pytest.param((SQUARE,), None, [2, 3, 10, 10], ["box taken from the mask"], id="no box"),
        pytest.param((SQUARE,), [0, 0, 0, 0], [2, 3, 10, 10], ["box taken from the mask"], id="a box of zeros"),
        pytest.param((SQUARE,), [2, 3, -4, 9], [2, 3, 10, 10], ["box taken from the mask"], id="negative width"),
        pytest.param(_rle(4, 5, 9, 8), None, [4, 5, 5, 3], ["box taken from the mask"], id="no box beside an RLE"),
        pytest.param(
            (SQUARE - np.array([5, 0]),),
            [-3, 3, 10, 10],
            [0, 3, 7, 10],
            ["outline cut at the picture's edge", "box cut at the picture's edge"],
            id="3 pixels outside",
        ),
        pytest.param(None, [-3, 3, 10, 10], [0, 3, 7, 10], ["box cut at the picture's edge"], id="a box alone"),
        pytest.param(None, [-0.5, 0, 31, 20], [-0.5, 0, 31, 20], [], id="rounding is no fault"),
        pytest.param(
            (SQUARE, SQUARE + np.array([30, 0])),
            [2, 3, 10, 10],
            [2, 3, 10, 10],
            ["outline cut at the picture's edge"],
            id="a part outside goes",
        ),
    ],
)
def test_an_object_fits_its_image(mask: object, box: list[float] | None, expected: list[float], kinds: list) -> None:
    repairs = Repairs()
    fitted = fit(mask, None if box is None else np.array(box, np.float64), SIZE, "object 1", repairs)  # type: ignore[arg-type]  # a table of both kinds of mask
    assert fitted.xywh.tolist() == expected
    assert [repair.kind for repair in repairs.found] == kinds
    assert all(repair.count == 1 and "object 1" in repair.example for repair in repairs.found)


@pytest.mark.parametrize(
    ("mask", "box", "kind"),
    [
        pytest.param(None, None, "empty box", id="neither box nor mask"),
        pytest.param(None, [3, 3, 0, 5], "empty box", id="an empty box alone"),
        pytest.param(None, [-9, 3, 10, 5], "box outside image", id="a box with most of it outside"),
        pytest.param((SQUARE + np.array([30, 0]),), [2, 3, 10, 10], "bad polygon", id="an outline beside the image"),
        pytest.param((SQUARE * 100,), [2, 3, 10, 10], "bad polygon", id="in another unit"),
        pytest.param((np.array([[2.0, 2], [9, 2], [5, 2]]),), None, "empty mask", id="a line, no box"),
        pytest.param(_rle(0, 0, 0, 0), None, "empty mask", id="no pixel, no box"),
        pytest.param(RLE((20, 30), b"ddd"), None, "empty mask", id="a damaged RLE, no box"),
    ],
)
def test_what_cannot_be_mended_is_named(mask: object, box: list[float] | None, kind: str) -> None:
    with pytest.raises(BrokenRecord, match="object 1") as caught:
        fit(mask, None if box is None else np.array(box, np.float64), SIZE, "object 1", Repairs())  # type: ignore[arg-type]  # as above
    assert caught.value.kind == kind


def test_a_box_that_a_format_does_not_have_is_no_repair() -> None:
    repairs = Repairs()
    assert fit((SQUARE,), None, SIZE, "object 1", repairs, boxed=False).xywh.tolist() == [2, 3, 10, 10]
    assert repairs.found == ()
    fit((SQUARE - 6,), None, SIZE, "object 1", repairs, boxed=False)
    assert [repair.kind for repair in repairs.found] == ["outline cut at the picture's edge"]


@pytest.mark.parametrize(
    "stray",
    [
        pytest.param(np.array([[4.0, 4]]), id="a point"),
        pytest.param(np.array([[4.0, 4], [5, 5]]), id="two points"),
        pytest.param(np.empty((0, 2)), id="nothing"),
        pytest.param(np.array([[4.0, 4], [5, 5], [np.nan, 6]]), id="NaN"),
        pytest.param(np.array([[4.0, 4], [5, 5], [np.inf, 6]]), id="infinity"),
    ],
)
def test_a_stray_part_does_not_cost_the_object(stray: np.ndarray) -> None:
    repairs = Repairs()
    assert [part.tolist() for part in sound_parts([stray, SQUARE], "object 1", repairs)] == [SQUARE.tolist()]
    assert [(repair.kind, repair.count) for repair in repairs.found] == [("part of an outline left out", 1)]
    with pytest.raises(BrokenRecord, match="object 1"):
        sound_parts([stray], "object 1", repairs)


def test_repairs_are_counted_with_the_first_as_the_example() -> None:
    repairs = Repairs()
    for number in range(700):
        fit((SQUARE,), None, SIZE, f"object {number}", repairs)
    assert [str(repair) for repair in repairs.found] == [
        "box taken from the mask: 700, first: object 0 had no box, which is now [2, 3, 10, 10]"
    ]


def test_measures() -> None:
    assert mask_area((SQUARE, SQUARE + 1)) == 200
    assert mask_area(_rle(4, 5, 9, 8)) == 15
    assert mask_area(None) is mask_area(RLE((20, 30), b"ddd")) is mask_bounds(None) is None
