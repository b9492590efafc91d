"""What must hold for the polygons of any mask: they are the mask, by the even-odd rule, and in order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bitmap = NDArray[np.bool_]


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
