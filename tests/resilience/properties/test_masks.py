"""Run lengths and polygons of any mask, against its pixels and pycocotools."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from model.runtime.detections import RLE
from model.runtime.kernels.masks import encode_masks
from model.runtime.kernels.polygons import to_polygons
from model.runtime.kernels.rle import (
    MAX_PIXELS,
    area,
    decode,
    decode_part,
    encode_bitmap,
    from_uncompressed,
    place,
    to_uncompressed,
)
from tests.model.runtime.kernels.rings import check
from tests.resilience.properties.pictures import Bitmap, bitmaps, sizes

DOUBT = 1e-4
"""Values so near to the threshold may fall to either side: the brute force below rounds otherwise."""

LONG_RUN = 2**28
"""pycocotools has six characters' room for each run, and writes on where longer ones take seven."""


def by_pycocotools(rle: RLE) -> Bitmap:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy's, about how it makes its array
        decoded: NDArray[np.uint8] = coco_mask.decode({"size": [*rle.size], "counts": rle.counts})
    return decoded.astype(bool)


@st.composite
def strings(draw: st.DrawFn) -> tuple[bytes, tuple[int, int]]:
    """Counts for a mask of that size: of one, with another character somewhere, or none at all."""
    mask = draw(bitmaps(6))
    counts = encode_bitmap(mask).counts
    at = draw(st.integers(0, len(counts)))
    other = draw(st.one_of(st.binary(max_size=3), st.text("01234PQRnmo", max_size=3).map(str.encode)))
    return counts[:at] + other + counts[at + draw(st.integers(0, 2)) :], (mask.shape[0], mask.shape[1])


@given(bitmaps())
def test_a_mask_comes_back_from_its_runs(mask: Bitmap) -> None:
    rle = encode_bitmap(mask)
    assert rle.counts == coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    assert np.array_equal(decode(rle), mask)
    assert area(rle) == mask.sum()
    assert from_uncompressed(to_uncompressed(rle), rle.size) == rle


@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 2**20), st.integers(2**30, 2**31)), min_size=1))
def test_runs_of_any_length_come_back(runs: list[int]) -> None:
    assume(0 < sum(runs) <= MAX_PIXELS)
    size = (sum(runs), 1)
    rle = from_uncompressed(runs, size)
    assert to_uncompressed(rle) == runs
    if max(runs) < LONG_RUN:
        theirs: dict[str, Any] = coco_mask.frPyObjects({"counts": runs, "size": [*size]}, *size)
        assert rle.counts == theirs["counts"]
    assert area(rle) == sum(runs[1::2])


@given(strings())
def test_any_string_is_refused_or_is_the_mask_that_others_see(string: tuple[bytes, tuple[int, int]]) -> None:
    counts, size = string
    rle = RLE(size, counts)
    mask = None
    with contextlib.suppress(ValueError):
        mask = decode(rle)
    if mask is not None:
        assert np.array_equal(mask, by_pycocotools(rle))
        assert np.array_equal(decode(encode_bitmap(mask)), mask)


@given(bitmaps(), st.data())
def test_parts_and_places_are_those_of_the_pixels(mask: Bitmap, data: st.DataObject) -> None:
    height, width = mask.shape
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows, columns = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    part = mask[top : top + rows, left : left + columns]
    assert np.array_equal(decode_part(encode_bitmap(mask), (top, left, rows, columns), part.shape), part)

    corner, margin = data.draw(st.tuples(*[st.integers(0, 20)] * 2)), data.draw(st.tuples(*[st.integers(0, 20)] * 2))
    placed = np.pad(mask, ((corner[0], margin[0]), (corner[1], margin[1])))
    assert place(encode_bitmap(mask), corner, placed.shape) == encode_bitmap(placed)


@given(bitmaps())
def test_polygons_are_the_mask(mask: Bitmap) -> None:
    check(mask, to_polygons(encode_bitmap(mask)))


@st.composite
def found_masks(draw: st.DrawFn) -> NDArray[np.float32]:
    """float32 [M, M] of probabilities, with steep and gentle edges."""
    side = draw(st.sampled_from((1, 2, 5, 28)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.random((side, side)) if draw(st.booleans()) else rng.integers(0, 2, (side, side))
    return (values * draw(st.sampled_from((1.0, 0.7)))).astype(np.float32)


@st.composite
def found_boxes(draw: st.DrawFn) -> NDArray[np.float32]:
    """float32 [4] whose corners are in order, within, around or partly beyond any picture."""
    places = st.floats(-40, 90, width=32)
    (x1, x2), (y1, y2) = (sorted((draw(places), draw(places))) for _ in range(2))
    return np.array([x1, y1, x2, y2], np.float32)


def pasted(mask: NDArray[np.float32], box: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    """The probabilities float64 [H, W], by torchvision's recipe: a border of zeros around the mask, the box larger by
    as much and then in whole pixels, bilinear between."""
    side = len(mask) + 2
    padded = np.pad(mask, 1).astype(np.float64)
    scale = np.float32(side / len(mask))
    half = (box[2:] - box[:2]) * np.float32(0.5) * scale
    center = (box[2:] + box[:2]) * np.float32(0.5)
    (left, top), (right, bottom) = (center - half).astype(np.int64), (center + half).astype(np.int64)

    def weights(first: int, last: int, length: int) -> NDArray[np.float64]:
        """[length, side]: what each source pixel gives to each pixel of the picture."""
        extent = max(last - first + 1, 1)
        table = np.zeros((length, side))
        for pixel in range(max(first, 0), min(first + extent, length)):
            at = min(max((pixel - first + 0.5) * side / extent - 0.5, 0.0), side - 1)
            low = int(at)
            table[pixel, low] += 1 - (at - low)
            table[pixel, min(low + 1, side - 1)] += at - low
        return table

    return weights(top, bottom, size[0]) @ padded @ weights(left, right, size[1]).T


@given(found_masks(), found_boxes(), sizes(60))
def test_what_a_network_finds_is_pasted_pixel_by_pixel(
    mask: NDArray[np.float32], box: NDArray[np.float32], size: tuple[int, int]
) -> None:
    values = pasted(mask, box, size)
    differing = decode(encode_masks(mask[None], box[None], size)[0]) != (values > 0.5)
    assert not (differing & (abs(values - 0.5) > DOUBT)).any()
