"""COCO RLE -> polygons along pixel edges, holes and separate parts included; exact in both directions.

The runs say where, on the line between two pixel columns, inside and outside face each other: these are the polygons'
vertical edges, and their ends are all the corners there are. On each horizontal grid line the corners, sorted by x,
pair up into the horizontal edges. Following the edges gives the rings. The cost grows with the runs, not with the area.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE
from model.runtime.kernels.compiled import kernel
from model.runtime.kernels.rle import unpack

_LEFT, _RIGHT = 0, 1


@kernel
def columns(
    runs: NDArray[np.int64], height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Foreground intervals top..bottom of each pixel column; column x's are `first[x]:first[x + 1]`."""
    room = 0
    position = 0
    for i in range(len(runs)):
        if i % 2 == 1 and runs[i] > 0:
            room += (position + runs[i] - 1) // height - position // height + 1
        position += runs[i]
    tops = np.empty(room, np.int64)
    bottoms = np.empty(room, np.int64)
    first = np.zeros(width + 1, np.int64)
    used = 0
    position = 0
    column = -1
    for i in range(len(runs)):
        stop = position + runs[i]
        while i % 2 == 1 and position < stop:
            x = position // height
            top = position - x * height
            bottom = min(stop - x * height, height)
            if x == column and bottoms[used - 1] == top:  # a run of 0 may stand between two that touch
                bottoms[used - 1] = bottom
            else:
                tops[used] = top
                bottoms[used] = bottom
                used += 1
                first[x + 1] += 1
            column = x
            position = x * height + bottom
        position = stop
    for x in range(width):
        first[x + 1] += first[x]
    return tops[:used], bottoms[:used], first


@kernel
def _root(parents: NDArray[np.int64], i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@kernel
def _parts(tops: NDArray[np.int64], bottoms: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """The 4-connected part of each interval, named by its first interval."""
    parents = np.empty(len(tops), np.int64)
    for i in range(len(parents)):
        parents[i] = i
    for x in range(len(first) - 2):
        a, b = first[x], first[x + 1]
        while a < first[x + 1] and b < first[x + 2]:
            if tops[a] < bottoms[b] and tops[b] < bottoms[a]:
                root_a, root_b = _root(parents, a), _root(parents, b)
                parents[max(root_a, root_b)] = min(root_a, root_b)
            if bottoms[a] < bottoms[b]:
                a += 1
            else:
                b += 1
    for i in range(len(parents)):
        parents[i] = _root(parents, i)
    return parents


@kernel
def _rings(
    runs: NDArray[np.int64], height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Corners (x, y) of all rings end to end, where each ring begins, and the part that it belongs to."""
    tops, bottoms, first = columns(runs, height, width)
    parts = _parts(tops, bottoms, first)
    room = 4 * len(tops)
    edge_x = np.empty(room, np.int64)
    edge_from = np.empty(room, np.int64)
    edge_to = np.empty(room, np.int64)
    edge_part = np.empty(room, np.int64)
    # Edge ends in order of x, then y, then the side to which a horizontal edge leaves.
    end_y = np.empty(2 * room, np.int64)
    end_edge = np.empty(2 * room, np.int64)
    edges = 0
    ends = 0

    for x in range(width + 1):
        # Breakpoints of the column on the left and of the one on the right: 2 * interval, plus 1 for its bottom.
        a = 2 * first[max(x - 1, 0)]
        a_stop = 2 * first[x]
        b = a_stop
        b_stop = 2 * first[min(x + 1, width)]
        open_left = open_right = False
        while a < a_stop or b < b_stop:
            y_a = y_b = height + 1
            if a < a_stop:
                y_a = bottoms[a // 2] if a % 2 else tops[a // 2]
            if b < b_stop:
                y_b = bottoms[b // 2] if b % 2 else tops[b // 2]
            y = min(y_a, y_b)
            was_edge = open_left != open_right
            old_part = parts[a // 2 if open_left else b // 2] if was_edge else -1
            was_left = open_left
            if y_a == y:
                open_left = not open_left
                a += 1
            if y_b == y:
                open_right = not open_right
                b += 1
            is_edge = open_left != open_right
            new_part = parts[a // 2 if open_left else b // 2] if is_edge else -1

            if was_edge:  # inside on the left is walked downward, inside on the right upward
                if was_left:
                    edge_to[edges - 1] = y
                else:
                    edge_from[edges - 1] = y
            if is_edge:
                edge_x[edges] = x
                edge_part[edges] = new_part
                if open_left:
                    edge_from[edges] = y
                else:
                    edge_to[edges] = y
                edges += 1
            if was_edge and is_edge:
                # Two pixels touch at this corner only. Different parts each turn towards their own pixel; one part goes
                # straight over, so that no ring passes a point twice.
                old_first = was_left == (old_part != new_part)
                end_edge[ends] = edges - 2 if old_first else edges - 1
                end_edge[ends + 1] = edges - 1 if old_first else edges - 2
                end_y[ends] = end_y[ends + 1] = y
                ends += 2
            elif was_edge or is_edge:
                end_edge[ends] = edges - 1
                end_y[ends] = y
                ends += 1

    # A stable counting sort by y leaves every grid line's corners in order of x; they pair up.
    place = np.zeros(height + 2, np.int64)
    for i in range(ends):
        place[end_y[i] + 1] += 1
    for y in range(height + 1):
        place[y + 1] += place[y]
    order = np.empty(ends, np.int64)
    for i in range(ends):
        order[place[end_y[i]]] = i
        place[end_y[i]] += 1
    following = np.empty(edges, np.int64)
    for i in range(0, ends, 2):
        one, other = end_edge[order[i]], end_edge[order[i + 1]]
        if edge_to[one] == end_y[order[i]]:
            following[one] = other
        else:
            following[other] = one

    corners = np.empty((2 * edges, 2), np.int64)
    ring_start = np.zeros(edges + 1, np.int64)
    ring_part = np.empty(edges, np.int64)
    rings = 0
    used = 0
    for begin in range(edges):
        edge = begin
        while following[edge] >= 0:
            corners[used, 0] = corners[used + 1, 0] = edge_x[edge]
            corners[used, 1] = edge_from[edge]
            corners[used + 1, 1] = edge_to[edge]
            used += 2
            after = following[edge]
            following[edge] = -1
            edge = after
        if used > ring_start[rings]:
            ring_part[rings] = edge_part[begin]
            rings += 1
            ring_start[rings] = used
    return corners[:used], ring_start[: rings + 1], ring_part[:rings]


def to_polygons(rle: RLE) -> list[list[list[float]]]:
    """The mask's 4-connected parts; each is its outer ring followed by the rings of its holes.

    A ring is flat, [x1, y1, x2, y2, ...] in pixels, not closed, with vertices only where it turns. Pixel (column x, row
    y) covers x..x+1, y..y+1, so filling the rings by the even-odd rule gives back exactly the mask. A ring passes no
    point twice. In the (x, y) numbers outer rings have positive shoelace area and holes negative, as GeoJSON wants it.
    COCO's polygon format, which has no holes, is `[part[0] for part in polygons]`. ValueError on malformed counts.
    """
    height, width = rle.size
    corners, starts, ring_parts = _rings(unpack(rle), height, width)
    flat: list[float] = corners.reshape(-1).astype(np.float64).tolist()
    cuts = (2 * starts).tolist()
    # A part's leftmost edge lies on its outer ring, and rings come by their leftmost edge: the outer one is first.
    polygons: dict[int, list[list[float]]] = {}
    for part, (start, stop) in zip(ring_parts.tolist(), pairwise(cuts), strict=True):
        polygons.setdefault(part, []).append(flat[start:stop])
    return list(polygons.values())
