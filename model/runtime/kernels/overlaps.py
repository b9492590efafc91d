"""What masks that lie in one picture have in common, from their runs: no mask is ever decoded whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE
from model.runtime.kernels.compiled import kernel
from model.runtime.kernels.rle import unpack

AT_ONCE = 16_384
"""Pairs whose masks' runs are in memory together."""


@kernel
def _count(
    runs: NDArray[np.int64],
    offsets: NDArray[np.int64],
    places: NDArray[np.int64],
    pairs: NDArray[np.int64],
    windows: NDArray[np.int64],
) -> NDArray[np.int64]:
    """places: (top, left, rows) of each mask. Returns int64 [P, 3]; see `common_pixels`."""
    counts = np.zeros((len(pairs), 3), np.int64)
    most = 0
    for pair in range(len(pairs)):
        most = max(most, windows[pair, 2] * windows[pair, 3])
    first = np.zeros(most, np.uint8)  # the first mask in the window, column by column
    for pair in range(len(pairs)):
        top, left, height, width = windows[pair]
        first[: height * width] = 0
        for side in range(2):
            mask = pairs[pair, side]
            rows = places[mask, 2]
            above, before = top - places[mask, 0], left - places[mask, 1]  # the window in the mask
            end = 0
            for run in range(offsets[mask], offsets[mask + 1]):
                start, end = end, end + runs[run]
                if start >= (before + width) * rows:
                    break
                if (run - offsets[mask]) % 2 == 0 or end <= before * rows:
                    continue
                for column in range(max(start // rows, before), min((end - 1) // rows + 1, before + width)):
                    low = max(start - column * rows, above, 0)
                    high = min(end - column * rows, rows, above + height)
                    at = (column - before) * height - above
                    for row in range(low, high):
                        counts[pair, side] += 1
                        if side == 0:
                            first[at + row] = 1
                        else:
                            counts[pair, 2] += first[at + row]
    return counts


def common_pixels(
    masks: Sequence[RLE], corners: NDArray[np.int64], pairs: NDArray[np.int64], windows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Pixels that each pair's first mask has in its window of the picture, its second, and both: int64 [P, 3].

    corners: int64 [N, 2], (top, left) of each mask in the picture. pairs: int64 [P, 2], numbers of masks. windows:
    int64 [P, 4], (top, left, height, width) in the picture; what of one lies beyond a mask is empty there. ValueError
    on malformed counts.
    """
    counts = [np.zeros((0, 3), np.int64)]
    for at in range(0, len(pairs), AT_ONCE):
        used, renumbered = np.unique(pairs[at : at + AT_ONCE], return_inverse=True)
        runs = [unpack(masks[number]) for number in used.tolist()]
        offsets = np.cumsum([0, *map(len, runs)], dtype=np.int64)
        rows = np.array([masks[number].size[0] for number in used.tolist()], np.int64)
        places = np.column_stack([corners[used], rows])
        part = np.ascontiguousarray(windows[at : at + AT_ONCE])
        counts.append(_count(np.concatenate(runs), offsets, places, renumbered.reshape(-1, 2), part))
    return np.concatenate(counts)


def warm_up() -> None:
    """Compiles, or loads from the cache, what merging tiles needs; then no request waits for it."""
    mask = RLE((4, 8), b"522000?")
    common_pixels(
        [mask, mask], np.zeros((2, 2), np.int64), np.array([[0, 1]], np.int64), np.array([[0, 0, 4, 8]], np.int64)
    )
