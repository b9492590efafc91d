"""COCO strings read and written as pycocotools does."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from model.runtime.detections import RLE
from model.runtime.kernels import rle as rle_kernels
from model.runtime.kernels.rle import (
    area,
    beside,
    decode,
    decode_part,
    encode_bitmap,
    from_uncompressed,
    to_uncompressed,
)


@pytest.fixture(autouse=True, params=["compiled", "plain"])
def _kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels compiled, and as the client runs them, which is installed without numba."""
    compiled = {name: value for name, value in vars(rle_kernels).items() if hasattr(value, "py_func")}
    assert compiled
    if request.param == "plain":
        for name, value in compiled.items():
            monkeypatch.setattr(rle_kernels, name, value.py_func)


def bitmaps() -> list[NDArray[np.bool_]]:
    """Noise of every density in sizes from 1x1, so that first and last pixels and long runs take all values."""
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (1, 9), (9, 1), *((int(h), int(w)) for h, w in rng.integers(1, 60, (60, 2)))]
    masks = [rng.random(size) < share for size in sizes for share in (0.0, 0.02, 0.5, 0.98, 1.0)]
    return [*masks, np.pad(np.ones((2, 3), bool), 700)]


def test_bitmaps_equal_pycocotools_and_come_back() -> None:
    for mask in bitmaps():
        expected = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        rle = encode_bitmap(mask)
        assert (rle.counts, list(rle.size)) == (expected["counts"], expected["size"])
        decoded = decode(rle)
        assert decoded.dtype == np.bool_
        np.testing.assert_array_equal(decoded, mask)
        assert area(rle) == np.count_nonzero(mask)
        assert from_uncompressed(to_uncompressed(rle), rle.size) == rle


@pytest.mark.parametrize("seed", range(40))
def test_a_part_is_the_nearest_pixels_of_its_window(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2).tolist()
    mask = rng.random((height, width)) < rng.choice([0.0, 0.03, 0.5, 0.97, 1.0])
    top, left = int(rng.integers(height)), int(rng.integers(width))
    rows, columns = int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1))
    for size in ((rows, columns), tuple(rng.integers(1, 60, 2).tolist())):
        part = decode_part(encode_bitmap(mask), (top, left, rows, columns), size)
        expected = [
            [
                mask[top + (2 * y + 1) * rows // (2 * size[0]), left + (2 * x + 1) * columns // (2 * size[1])]
                for x in range(size[1])
            ]
            for y in range(size[0])
        ]
        assert part.dtype == np.uint8
        np.testing.assert_array_equal(part, expected)


def test_a_part_of_a_mask_beyond_memory() -> None:
    side = 60_000  # 3.6 GB as pixels
    rle = from_uncompressed([30_000 * side + 100, 50, side**2 - 30_000 * side - 150], (side, side))
    part = decode_part(rle, (90, 29_999, 20, 2), (20, 2))
    np.testing.assert_array_equal(part, np.array([[0, 0]] * 10 + [[0, 1]] * 10))
    assert decode_part(rle, (0, 0, side, side), (3, 5)).shape == (3, 5)


@pytest.mark.parametrize("window", [(-1, 0, 3, 3), (0, -1, 3, 3), (0, 0, 4, 3), (2, 0, 2, 3), (0, 0, 0, 3)])
def test_a_part_lies_inside(window: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not lie inside the mask of 3x3"):
        decode_part(encode_bitmap(np.ones((3, 3), bool)), window, (1, 1))


def test_integer_bitmap() -> None:
    assert encode_bitmap(np.array([[0, 255], [2, 0]], np.uint8)) == encode_bitmap(
        np.array([[False, True], [True, False]])
    )


# (what it is, uncompressed counts, size)
RUNS = [
    ("background only", [12], (3, 4)),
    ("foreground only", [0, 12], (3, 4)),
    ("first pixel set", [0, 1, 11], (3, 4)),
    ("last pixel set", [11, 1], (3, 4)),
    ("runs of 0 in the middle", [2, 3, 0, 4, 3], (3, 4)),
    ("falling runs give negative differences", [100, 90, 3, 2, 1, 1, 3], (10, 20)),
]


@pytest.mark.parametrize(("counts", "size"), [case[1:] for case in RUNS], ids=[case[0] for case in RUNS])
def test_uncompressed_equals_pycocotools(counts: list[int], size: tuple[int, int]) -> None:
    rle = from_uncompressed(counts, size)
    assert rle.counts == coco_mask.frPyObjects({"counts": counts, "size": list(size)}, *size)["counts"]
    assert to_uncompressed(rle) == counts
    assert area(rle) == sum(counts[1::2])


def test_runs_of_32_bits() -> None:
    size = (2**16, 2**16 - 1)
    counts = [2**31 + 5, 7, 3, 1]
    counts.append(size[0] * size[1] - sum(counts))
    rle = from_uncompressed(counts, size)
    assert to_uncompressed(rle) == counts
    assert rle.counts == coco_mask.frPyObjects({"counts": counts, "size": list(size)}, *size)["counts"]


# (what is wrong, counts, size, message)
MALFORMED = [
    ("nothing", b"", (3, 4), "cover 0 pixels"),
    ("a byte below the range", b"5/7", (3, 4), "byte b'/' at 1"),
    ("a byte above the range", b"5p7", (3, 4), "byte b'p' at 1"),
    ("a byte beyond ASCII", "5é".encode(), (3, 4), "at 1"),
    ("cut off inside a number", b"5o", (3, 4), "cut off inside the number that starts at 1"),
    ("too few pixels", b"56", (3, 4), "cover 11 pixels"),
    ("too many pixels", b"5<", (3, 4), "cover 17 pixels"),
    ("a negative run", b"O7", (3, 4), "starts at 0"),
    ("negative after adding the run two before", b"51LM", (3, 4), "starts at"),
    ("a run longer than the mask", b"Pl0", (3, 4), "starts at 0"),
    ("a number without end", b"o" * 40 + b"0", (3, 4), "starts at 0"),
    ("no such size", b"<", (0, 4), "mask size 0x4"),
]


@pytest.mark.parametrize(
    ("counts", "size", "message"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED]
)
def test_malformed_counts_are_refused(counts: bytes, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(RLE(size, counts))


def test_random_bytes_never_crash() -> None:
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(500):
        counts = bytes(rng.integers(40, 120, rng.integers(0, 12)).astype(np.uint8))
        try:
            assert decode(RLE((7, 5), counts)).shape == (7, 5)
        except ValueError:
            refused += 1
    assert 400 < refused <= 500


@pytest.mark.parametrize("counts", [[5, -1, 8], [5, 6], [5, 8], []])
def test_wrong_uncompressed_counts_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="add up to 3x4"):
        from_uncompressed(counts, (3, 4))


@pytest.mark.parametrize("shape", [(3,), (1, 3, 4)])
def test_bitmap_of_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="need \\[height, width\\]"):
        encode_bitmap(np.zeros(shape, bool))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_parts_side_by_side_are_the_whole(share: float) -> None:
    mask = np.random.default_rng(0).random((7, 20)) <= share
    parts = [encode_bitmap(mask[:, left:right]) for left, right in ((0, 1), (1, 9), (9, 12), (12, 20))]
    assert beside(parts) == encode_bitmap(mask)
    with pytest.raises(ValueError, match="no common height"):
        beside([parts[0], encode_bitmap(mask[:5])])
