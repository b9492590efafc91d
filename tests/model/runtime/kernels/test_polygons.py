"""Polygons of masks: exact by the even-odd rule, one entry a part, holes after the outer ring, no point twice."""

from __future__ import annotations

import numpy as np
import pytest

from model.runtime.detections import RLE
from model.runtime.kernels.polygons import to_polygons
from model.runtime.kernels.rle import encode_bitmap, from_uncompressed
from tests.model.runtime.kernels.rings import Bitmap, check


def bitmap(*rows: str) -> Bitmap:
    return np.array([[character == "#" for character in row] for row in rows])


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
