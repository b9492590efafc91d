"""Polygons of masks: exact by the even-odd rule, one entry a part, holes after the outer ring, no point twice."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model.runtime.detections import RLE
from model.runtime.kernels.polygons import to_polygons
from model.runtime.kernels.rle import encode_bitmap, from_uncompressed

Bitmap = NDArray[np.bool_]


def bitmap(*rows: str) -> Bitmap:
    return np.array([[character == "#" for character in row] for row in rows])


def even_odd(rings: list[list[float]], shape: tuple[int, int]) -> Bitmap:
    """Rasterizes rings along pixel edges: inside flips at every vertical edge."""
    flips = np.zeros((shape[0], shape[1] + 1), bool)
    for ring in rings:
        points = np.array(ring).reshape(-1, 2).astype(int)
        for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if x1 == x2:
                flips[min(y1, y2) : max(y1, y2), x1] ^= True
    return np.logical_xor.accumulate(flips, axis=1)[:, :-1]


def shoelace(ring: list[float]) -> float:
    x, y = np.array(ring).reshape(-1, 2).T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def count_parts(mask: Bitmap) -> int:
    """4-connected parts, by flooding."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    parts = 0
    while left:
        parts += 1
        front = [left.pop()]
        while front:
            y, x = front.pop()
            for neighbor in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if neighbor in left:
                    left.remove(neighbor)
                    front.append(neighbor)
    return parts


def check(mask: Bitmap, polygons: list[list[list[float]]]) -> None:
    """Everything that must hold for any mask."""
    drawn = np.zeros_like(mask)
    for part in polygons:
        alone = even_odd(part, mask.shape)
        assert not (drawn & alone).any()
        assert count_parts(alone) == 1
        drawn |= alone
        areas = [shoelace(ring) for ring in part]
        assert areas[0] > 0
        assert all(hole < 0 for hole in areas[1:])
        assert sum(areas) == np.count_nonzero(alone)
        for ring in part:
            points = np.array(ring).reshape(-1, 2)
            assert len(np.unique(points, axis=0)) == len(points)
            steps = np.roll(points, -1, axis=0) - points
            horizontal = steps[:, 1] == 0
            assert ((steps != 0).sum(axis=1) == 1).all()
            assert (horizontal != np.roll(horizontal, 1)).all(), "a vertex where the ring goes straight on"
    np.testing.assert_array_equal(drawn, mask)
    np.testing.assert_array_equal(even_odd([ring for part in polygons for ring in part], mask.shape), mask)
    assert len(polygons) == count_parts(mask)


# (what it is, mask, rings of each part)
SHAPES = [
    ("empty", bitmap("...", "..."), []),
    ("one pixel", bitmap("...", ".#."), [1]),
    ("the whole image", bitmap("##", "##"), [1]),
    ("a one-pixel image", bitmap("#"), [1]),
    ("a ring around a hole", bitmap("###", "#.#", "###"), [2]),
    ("two parts", bitmap("#.#", "#.#"), [1, 1]),
    ("two pixels that touch at a corner are two parts", bitmap("#.", ".#"), [1, 1]),
    ("the other diagonal", bitmap(".#", "#."), [1, 1]),
    ("a chessboard", bitmap("#.#", ".#.", "#.#"), [1, 1, 1, 1, 1]),
    ("holes that touch at a corner are two holes", bitmap("####", "#.##", "##.#", "####"), [3]),
    ("the other diagonal of holes", bitmap("####", "##.#", "#.##", "####"), [3]),
    ("a hole that touches the outside at a corner", bitmap("###.", "#.##", "####"), [2]),
    ("a hole open to the outside through one corner only", bitmap(".###", "##.#", "####"), [2]),
    ("an island in a hole", bitmap("#####", "#...#", "#.#.#", "#...#", "#####"), [2, 1]),
    ("an island that touches the hole's corner", bitmap("#####", "#...#", "#..##", "#.#.#", "#####"), None),
    ("two holes", bitmap("#####", "#.#.#", "#####"), [3]),
    ("a U", bitmap("#.#", "#.#", "###"), [1]),
    ("a comb lying on its side", bitmap("####", "#...", "####", "#...", "####"), [1]),
    ("a spiral", bitmap("#####", "....#", "###.#", "#...#", "#####"), [1]),
]


@pytest.mark.parametrize(("mask", "rings"), [case[1:] for case in SHAPES], ids=[case[0] for case in SHAPES])
def test_shape(mask: Bitmap, rings: list[int] | None) -> None:
    polygons = to_polygons(encode_bitmap(mask))
    check(mask, polygons)
    if rings is not None:
        assert sorted(map(len, polygons)) == sorted(rings)


def test_coordinates() -> None:
    polygons = to_polygons(encode_bitmap(bitmap("....", ".##.", ".##.")))
    assert polygons == [[[1.0, 3.0, 1.0, 1.0, 3.0, 1.0, 3.0, 3.0]]]
    assert all(isinstance(value, float) for value in polygons[0][0])


def test_random_masks() -> None:
    rng = np.random.default_rng(0)
    for trial in range(250):
        height, width = rng.integers(1, 14, 2)
        check(mask := rng.random((height, width)) < rng.uniform(0.2, 0.9), to_polygons(encode_bitmap(mask)))
        assert mask.size > 0, trial


def test_runs_of_zero_length() -> None:
    mask = bitmap("#.", "#.", "##")
    assert to_polygons(from_uncompressed([0, 1, 0, 2, 2, 0, 0, 1], (3, 2))) == to_polygons(encode_bitmap(mask))


def test_malformed_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="RLE counts"):
        to_polygons(RLE((3, 4), b"zz"))
