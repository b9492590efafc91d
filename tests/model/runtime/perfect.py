"""What a network without a fault finds in the tiles of a picture whose objects are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import Detections
from model.runtime.kernels.rle import encode_bitmap
from model.runtime.sightings import TileAnswer
from model.runtime.tiling import Tile

Masks = NDArray[np.bool_]


def seen(masks: Masks, tile: Tile, *, with_masks: bool = True, short: float = 0.0) -> TileAnswer:
    """What a network without a fault finds in a tile: the part of every object that the tile shows. One with the usual
    fault ends `short` of what borders inside the picture cut, by that share of the part."""
    parts = masks[:, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width].copy()
    for part in parts if short else ():
        _shorten(part, tile, (masks.shape[1], masks.shape[2]), short)
    there = np.flatnonzero(parts.any((1, 2)))
    rows = [(np.flatnonzero(parts[i].any(0)), np.flatnonzero(parts[i].any(1))) for i in there]
    boxes = np.array([[x[0], y[0], x[-1] + 1, y[-1] + 1] for x, y in rows], np.float32).reshape(-1, 4)
    rles = [encode_bitmap(parts[i]) for i in there] if with_masks else None
    scores = (0.9 - there / 1000).astype(np.float32)
    return TileAnswer(tile, Detections(boxes, scores, there % 2 + 1, rles))


def _shorten(part: NDArray[np.bool_], tile: Tile, size: tuple[int, int], short: float) -> None:
    by = round(short * max(np.ptp(np.nonzero(part), 1))) if part.any() else 0
    for view, start, end, length in (
        (part, tile.top, tile.top + tile.height, size[0]),
        (part.T, tile.left, tile.left + tile.width, size[1]),
    ):
        if start > 0 and view[0].any():
            view[:by] = False
        if end < length and view[-1].any():
            view[len(view) - by :] = False
