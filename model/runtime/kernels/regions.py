"""COCO RLE -> where an object lies and what shape it has, without decoding the mask.

The numbers are those of scikit-image's `regionprops` on the same mask. Everything is read from the runs, column by
column: the cost grows with the object's box, memory with its sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE
from model.runtime.kernels.compiled import kernel
from model.runtime.kernels.polygons import columns as columns_of
from model.runtime.kernels.rle import decode_part, unpack

_DIAGONAL = sqrt(2.0)
_CODES = 50


@dataclass(frozen=True, slots=True)
class Region:
    """One mask's shape, in pixels.

    left, top, width, height: the box of its pixels; all 0 when there is none, and then the floats are NaN.
    area: its pixels. x, y: the mean of its pixels' columns and rows, counted from 0, so a pixel's own is its index.
    perimeter: of the line through the centers of its border pixels, by the weights of Benkrid and Crookes (2000).
    eccentricity: of the ellipse with the same second moments, 0 for a circle and 1 for a line.
    solidity: its share of the pixels whose centers lie in its convex hull, pixels taken for diamonds.
    """

    left: int
    top: int
    width: int
    height: int
    area: int
    x: float
    y: float
    perimeter: float
    eccentricity: float
    solidity: float


EMPTY = Region(0, 0, 0, 0, 0, *[float("nan")] * 5)


def _intervals(rle: RLE) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The foreground as column, first row and row behind the last, by column. ValueError on malformed counts."""
    height, width = rle.size
    tops, bottoms, first = columns_of(unpack(rle), height, width)
    return np.repeat(np.arange(width), np.diff(first)), tops, bottoms


@kernel
def _box(
    columns: NDArray[np.int64], tops: NDArray[np.int64], bottoms: NDArray[np.int64]
) -> tuple[int, int, int, int, int]:
    """left, top, width, height and area of at least one interval."""
    top = tops[0]
    bottom = bottoms[0]
    area = 0
    for i in range(len(columns)):
        top = min(top, tops[i])
        bottom = max(bottom, bottoms[i])
        area += bottoms[i] - tops[i]
    return columns[0], top, columns[-1] - columns[0] + 1, bottom - top, area


@kernel
def _moments(
    columns: NDArray[np.int64], tops: NDArray[np.int64], bottoms: NDArray[np.int64], left: int, top: int
) -> tuple[float, float, float, float, float]:
    """Mean column and row within the box at (left, top), and the second central moments xx, yy, xy for each pixel.

    The sums are whole numbers, in floats that hold them exactly as long as an object has fewer than some 2**40 pixels
    times sides, and nearly so beyond.
    """
    count = 0.0
    x_sum = y_sum = xx_sum = yy_sum = xy_sum = 0.0
    for i in range(len(columns)):
        x = float(columns[i] - left)
        first = float(tops[i] - top)
        last = float(bottoms[i] - top - 1)
        length = last - first + 1
        rows = (first + last) * length / 2
        count += length
        x_sum += x * length
        y_sum += rows
        xx_sum += x * x * length
        xy_sum += x * rows
        yy_sum += last * (last + 1) * (2 * last + 1) / 6 - (first - 1) * first * (2 * first - 1) / 6
    x = x_sum / count
    y = y_sum / count
    return (
        x,
        y,
        (xx_sum - x_sum * x) / count,
        (yy_sum - y_sum * y) / count,
        (xy_sum - x_sum * y) / count,
    )


@kernel
def _perimeter(
    columns: NDArray[np.int64],
    tops: NDArray[np.int64],
    bottoms: NDArray[np.int64],
    box: tuple[int, int, int, int, int],
) -> float:
    """Border pixels, those with a neighbor outside over an edge, each counted by how it joins its neighbors."""
    left, top, width, height, _ = box
    # Three neighboring columns of the mask and of its border, used in turns; a row of nothing above and below.
    mask = np.zeros((3, height + 2), np.bool_)
    border = np.zeros((3, height + 2), np.bool_)
    counts = np.zeros(_CODES, np.int64)
    at = 0
    for x in range(width + 2):
        after, here, before = x % 3, (x + 2) % 3, (x + 1) % 3  # columns x, x - 1 and x - 2
        for y in range(height + 2):
            mask[after, y] = False
        while at < len(columns) and columns[at] == left + x:
            for y in range(tops[at] - top + 1, bottoms[at] - top + 1):
                mask[after, y] = True
            at += 1
        for y in range(1, height + 1):
            inner = mask[before, y] and mask[after, y] and mask[here, y - 1] and mask[here, y + 1]
            border[here, y] = mask[here, y] and not inner
        # The border of column x - 2 and its neighbors x - 1 and x - 3, whose place column x takes in the next turn.
        for y in range(1, height + 1):
            if border[before, y]:
                edges = int(border[before, y - 1]) + int(border[before, y + 1])
                edges += int(border[here, y]) + int(border[after, y])
                corners = int(border[here, y - 1]) + int(border[here, y + 1])
                corners += int(border[after, y - 1]) + int(border[after, y + 1])
                counts[1 + 2 * edges + 10 * corners] += 1
    straight = counts[5] + counts[7] + counts[15] + counts[17] + counts[25] + counts[27]
    diagonal = counts[21] + counts[33]
    mixed = counts[13] + counts[23]
    return float(straight + diagonal * _DIAGONAL + mixed * (1 + _DIAGONAL) / 2)


@kernel
def _hull_area(
    columns: NDArray[np.int64],
    tops: NDArray[np.int64],
    bottoms: NDArray[np.int64],
    box: tuple[int, int, int, int, int],
) -> int:
    """Pixels whose centers lie in the convex hull, or on it, of the middles of all pixels' edges: whole numbers only.

    Those middles lie on a grid of half pixels, which is counted in here: column c's center is at 2 c + 1.
    """
    left, top, width, height, _ = box
    far = 4 * (height + 2)
    lows = np.full(2 * width + 1, far, np.int64)
    highs = np.full(2 * width + 1, -far, np.int64)
    for i in range(len(columns)):
        x = 2 * (columns[i] - left)
        low = 2 * (tops[i] - top) + 1
        high = 2 * (bottoms[i] - top) - 1
        for side in range(3):
            reach = 1 if side == 1 else 0
            lows[x + side] = min(lows[x + side], low - reach)
            highs[x + side] = max(highs[x + side], high + reach)
    lower = _chain(lows, far, 1)
    upper = _chain(highs, -far, -1)
    area = 0
    at_lower = at_upper = 0
    for column in range(width):
        x = 2 * column + 1
        while lower[at_lower + 1] < x:
            at_lower += 1
        while upper[at_upper + 1] < x:
            at_upper += 1
        a, b = lower[at_lower], lower[at_lower + 1]
        # Centers are at odd heights 2 r + 1: the first r on or above the lower line, the last on or below the upper.
        first = -((b - a - lows[a] * (b - a) - (lows[b] - lows[a]) * (x - a)) // (2 * (b - a)))
        a, b = upper[at_upper], upper[at_upper + 1]
        last = (highs[a] * (b - a) + (highs[b] - highs[a]) * (x - a) - (b - a)) // (2 * (b - a))
        area += last - first + 1
    return area


@kernel
def _chain(heights: NDArray[np.int64], missing: int, sign: int) -> NDArray[np.int64]:
    """Positions of the corners of the lower hull of the points (position, height), or with sign -1 of the upper one."""
    chain = np.empty(len(heights), np.int64)
    used = 0
    for x in range(len(heights)):
        if heights[x] == missing:
            continue
        while used > 1:
            a, b = chain[used - 2], chain[used - 1]
            turn = (b - a) * (heights[x] - heights[a]) - (heights[b] - heights[a]) * (x - a)
            if sign * turn > 0:
                break
            used -= 1
        chain[used] = x
        used += 1
    return chain[:used]


def measure_region(rle: RLE) -> Region:
    """The shape of one mask; `EMPTY` when it has no pixel. ValueError on malformed counts."""
    xs, tops, bottoms = _intervals(rle)
    if not len(xs):
        return EMPTY
    box = _box(xs, tops, bottoms)
    left, top, width, height, area = box
    x, y, xx, yy, xy = _moments(xs, tops, bottoms, left, top)
    middle, spread = (xx + yy) / 2, sqrt(((xx - yy) / 2) ** 2 + xy**2)
    longest, shortest = middle + spread, max(middle - spread, 0.0)
    return Region(
        left,
        top,
        width,
        height,
        area,
        left + x,
        top + y,
        _perimeter(xs, tops, bottoms, box),
        sqrt(1 - shortest / longest) if longest > 0 else 0.0,
        area / _hull_area(xs, tops, bottoms, box),
    )


def box_of(rle: RLE) -> tuple[int, int, int, int]:
    """left, top, width and height in pixels of what is foreground; all 0 when nothing is. ValueError as above."""
    xs, tops, bottoms = _intervals(rle)
    return _box(xs, tops, bottoms)[:4] if len(xs) else (0, 0, 0, 0)


def warm_up() -> None:
    """Compiles, or loads from the cache, what measuring and painting objects needs; then no request waits for it."""
    rle = RLE((4, 8), b"522000?")
    measure_region(rle)
    decode_part(rle, (0, 0, 4, 8), (4, 8))
