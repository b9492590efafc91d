"""Shapes of masks against scikit-image's regionprops on the decoded mask."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.measure import regionprops

from model.runtime.detections import RLE
from model.runtime.kernels.regions import EMPTY, box_of, measure_region
from model.runtime.kernels.rle import encode_bitmap, from_uncompressed, place

Bitmap = NDArray[np.bool_]


def bitmap(*rows: str) -> Bitmap:
    return np.array([[character == "#" for character in row] for row in rows])


def check(mask: Bitmap) -> None:
    """All numbers of a mask with at least one pixel."""
    (expected,) = regionprops(mask.astype(np.uint8))
    found = measure_region(encode_bitmap(mask))
    top, left, bottom, right = expected.bbox
    assert (found.left, found.top, found.width, found.height) == (left, top, right - left, bottom - top)
    assert (found.left, found.top, found.width, found.height) == box_of(encode_bitmap(mask))
    assert found.area == expected.area
    assert (found.y, found.x) == pytest.approx(expected.centroid, rel=1e-12)
    assert found.perimeter == pytest.approx(expected.perimeter, rel=1e-12)
    assert found.solidity == pytest.approx(expected.solidity, rel=1e-12)
    # Nearly round, the rounding of the moments is what is left of 1 - l2 / l1, and its root is taken.
    assert found.eccentricity == pytest.approx(expected.eccentricity, rel=1e-9, abs=1e-6)


y, x = np.mgrid[:61, :90]
# (what it is, mask)
SHAPES = [
    ("one pixel", bitmap("...", ".#.")),
    ("the whole image", np.ones((7, 9), np.bool_)),
    ("a one-pixel image", bitmap("#")),
    ("a row, which is a line", bitmap("....", ".###")),
    ("a column", bitmap(".#", ".#", ".#")),
    ("a diagonal", np.eye(9, dtype=np.bool_)),
    ("the other diagonal", np.eye(9, dtype=np.bool_)[::-1]),
    ("a square", bitmap("....", ".##.", ".##.")),
    ("a ring around a hole", bitmap("###", "#.#", "###")),
    ("two parts with empty columns between", bitmap("#....", ".....", "....#")),
    ("an L", bitmap("#...", "#...", "####")),
    ("a comb", bitmap("#####", "#.#.#", "#.#.#")),
    ("a disc", np.hypot(y - 30, x - 40) < 25),
    ("an ellipse askew", ((x - 40 + y - 30) / 40) ** 2 + ((x - 40 - y + 30) / 12) ** 2 < 1),
    ("an ellipse cut by the border", ((x - 85) / 30) ** 2 + ((y - 3) / 20) ** 2 < 1),
    ("a thick ring", np.abs(np.hypot(y - 30, x - 40) - 20) < 4),
    ("a wide one", np.ones((2, 300), np.bool_)),
    ("a chessboard", (x + y) % 2 == 0),
]


@pytest.mark.parametrize("mask", [case[1] for case in SHAPES], ids=[case[0] for case in SHAPES])
def test_shape(mask: Bitmap) -> None:
    check(mask)


def test_random_masks() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        height, width = generator.integers(1, 24, 2)
        mask = generator.random((height, width)) < generator.uniform(0.02, 0.95)
        mask[generator.integers(height), generator.integers(width)] = True
        check(mask)


def test_a_mask_without_a_pixel_has_no_shape() -> None:
    for rle in (encode_bitmap(np.zeros((3, 4), np.bool_)), from_uncompressed([3, 0, 9], (3, 4))):
        assert measure_region(rle) is EMPTY
        assert box_of(rle) == (0, 0, 0, 0)


def test_runs_of_zero_length() -> None:
    mask = bitmap("#.", "#.", "##")
    assert measure_region(from_uncompressed([0, 1, 0, 2, 2, 0, 0, 1], (3, 2))) == measure_region(encode_bitmap(mask))


def test_an_object_in_a_picture_that_no_memory_holds() -> None:
    """60,000 pixels a side: the numbers are those of the object alone, moved."""
    small = encode_bitmap(np.hypot(y - 30, x - 40) < 25)
    alone, placed = measure_region(small), measure_region(place(small, (50_000, 59_000), (60_000, 60_000)))
    assert (placed.left, placed.top) == (alone.left + 59_000, alone.top + 50_000)
    assert (placed.x, placed.y) == pytest.approx((alone.x + 59_000, alone.y + 50_000), rel=1e-12)
    for name in ("width", "height", "area", "perimeter", "eccentricity", "solidity"):
        assert getattr(placed, name) == getattr(alone, name)


def test_malformed_counts_are_refused() -> None:
    for function in (measure_region, box_of):
        with pytest.raises(ValueError, match="RLE counts"):
            function(RLE((3, 4), b"zz"))
