"""What the tiles of a picture show, in the picture's pixels: how much of it, and what two of them show alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE, Detections
from model.runtime.images.picture import Size
from model.runtime.kernels.overlaps import common_pixels
from model.runtime.kernels.rle import decode_part
from model.runtime.tiling import Tile

TOUCHING_SHARE = 0.05
"""Up to this share of its longer side from its tile's border a box is cut by it, as the box of a large object ends
short of the border by more."""
SAME = 0.5
"""IoU from which two tiles' masks, where both tiles see, are one object; as NMS has it for boxes. Of pieces, the share
of the smaller one: what one tile shows as one, another may show in two parts."""
AT_ONCE = 65_536
"""About so many pairs are compared together."""
INWARD = np.array([1, 1, -1, -1], np.float32)
"""Signs of (x1, y1, x2, y2) with which what lies further in is larger."""


@dataclass(frozen=True, slots=True, eq=False)
class TileAnswer:
    """What the network found in a tile, in pixels of the tile.

    complete_above: what scores no more than this, it may have left out, because of its limits. Infinite where nothing
    can be said of what it has not found.
    """

    tile: Tile
    detections: Detections
    complete_above: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """One detection in one tile. box: float32 [4] in the picture; `mask` lies at `tile`'s corner; `room`: see the
    function, of which it has little where the tile's border cuts it."""

    tile: Tile
    box: NDArray[np.float32]
    score: float
    label: int
    room: float
    is_cut: bool
    mask: RLE | None
    keypoints: NDArray[np.float32] | None

    def pixels(self, window: Tile) -> NDArray[np.uint8]:
        """The mask, uint8 of 0 and 1, inside `window` of the picture, which lies in the tile."""
        assert self.mask is not None
        part = (window.top - self.tile.top, window.left - self.tile.left, window.height, window.width)
        return decode_part(self.mask, part, (window.height, window.width))


def order(one: Sighting) -> tuple[float, ...]:
    """Falling score; none is like another's of a picture, so that no tile's order matters."""
    return (-one.score, *one.box.tolist(), one.tile.top, one.tile.left, one.tile.height, one.tile.width)


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Sightings in different tiles that may be of one object. numbers: int64 [P, 2], the lower first; iou: float64 [P],
    where both tiles see; shares: float64 [P, 2], what they have in common of each there."""

    numbers: NDArray[np.int64]
    iou: NDArray[np.float64]
    shares: NDArray[np.float64]


def sightings(size: Size, answer: TileAnswer, least: float) -> Iterator[Sighting]:
    """All in a tile of a picture of `size`; `least`: see `touching`."""
    tile, detections = answer.tile, answer.detections
    offset = np.array([tile.left, tile.top], np.float32)
    boxes = detections.boxes + np.tile(offset, 2)
    rooms = room(size, tile.box, boxes)
    cut = rooms <= touching(boxes, least)
    for row, box in enumerate(boxes):
        keypoints = None
        if detections.keypoints is not None:
            keypoints = detections.keypoints[row] + np.append(offset, np.float32(0))
        yield Sighting(
            tile,
            box,
            float(detections.scores[row]),
            int(detections.labels[row]),
            float(rooms[row]),
            bool(cut[row]),
            None if detections.masks is None else detections.masks[row],
            keypoints,
        )


def room(size: Size, tiles: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels between a box and the nearest border of a tile that is not the picture's too: what the network sees around
    the object. Negative where the box reaches out of the tile. tiles and boxes: float32 [4] or [N, 4], one for many or
    many for one; as many rooms."""
    rooms: NDArray[np.float32] = sides(size, tiles, boxes).min(-1)
    return rooms


def sides(size: Size, tiles: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same of each side, [4] or [N, 4]; without end where the tile's border is the picture's."""
    height, width = size
    inside = (tiles > 0) & (tiles < np.array([width, height, width, height]))  # borders within the picture
    return np.where(inside, (boxes - tiles) * INWARD, np.float32(np.inf))


def touching(boxes: NDArray[np.float32], least: float) -> NDArray[np.float32]:
    """The room up to which a tile's border cuts a box: `least` pixels, or more of a large one; boxes float32 [4] or
    [N, 4]."""
    longer = (boxes[..., 2:] - boxes[..., :2]).max(-1)
    limits: NDArray[np.float32] = np.maximum(TOUCHING_SHARE * longer, np.float32(least))
    return limits


def compare(found: Sequence[Sighting]) -> Pairs:
    """Those of the same label in different tiles that share half of the smaller one or more."""
    boxes = np.array([one.box for one in found], np.float32).reshape(-1, 4)
    tiles = np.array([one.tile.box for one in found], np.float32).reshape(-1, 4)
    labels = np.array([one.label for one in found], np.int64)
    masks = [one.mask for one in found if one.mask is not None]
    parts = []
    for pairs in _near(boxes):
        first, second = pairs.T
        pairs = pairs[(labels[first] == labels[second]) & (tiles[first] != tiles[second]).any(1)]
        if len(masks) == len(found):
            pairs, pixels = _pixels(pairs, boxes, tiles, masks)
        else:
            pixels = _box_pixels(pairs, boxes, tiles)
        own, shared = pixels[:, :2], pixels[:, 2]
        alike = (shared > 0) & (shared >= SAME * own.min(1))
        own, shared = own[alike], shared[alike]
        parts.append(Pairs(pairs[alike], shared / (own.sum(1) - shared), shared[:, None] / own))
    return Pairs(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.iou for part in parts]),
        np.concatenate([part.shares for part in parts]),
    )


def _near(boxes: NDArray[np.float32]) -> Iterator[NDArray[np.int64]]:
    """Pairs (i, j), i < j, of boxes that have something in common, from left to right: int64 [P, 2], again and again,
    for a large picture has millions."""
    ordered = np.argsort(boxes[:, 0], kind="stable")
    stops = np.searchsorted(boxes[ordered, 0], boxes[ordered, 2], "left")
    pairs, count = [np.zeros((0, 2), np.int64)], 0
    for place, number in enumerate(ordered):
        others = ordered[place + 1 : stops[place]]
        others = others[(boxes[others, 1] < boxes[number, 3]) & (boxes[others, 3] > boxes[number, 1])]
        pairs.append(np.column_stack([np.minimum(others, number), np.maximum(others, number)]))
        count += len(others)
        if count >= AT_ONCE:
            yield np.concatenate(pairs)
            pairs, count = [], 0
    yield np.concatenate([np.zeros((0, 2), np.int64), *pairs])


def _pixels(
    pairs: NDArray[np.int64], boxes: NDArray[np.float32], tiles: NDArray[np.float32], masks: Sequence[RLE]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The pairs of which both tiles see something; of the first's mask, the second's and of both, the pixels there."""
    first, second = pairs.T
    extent = common(_around(boxes[first], boxes[second]), common(tiles[first], tiles[second]))
    extent = np.concatenate([np.floor(extent[:, :2]), np.ceil(extent[:, 2:])], 1).astype(np.int64)
    windows = np.concatenate([extent[:, 1::-1], (extent[:, 2:] - extent[:, :2])[:, ::-1]], 1)
    seen = (windows[:, 2:] > 0).all(1)
    counts = common_pixels(masks, tiles[:, 1::-1].astype(np.int64), pairs[seen], windows[seen])
    return pairs[seen], counts.astype(np.float64)


def _box_pixels(
    pairs: NDArray[np.int64], boxes: NDArray[np.float32], tiles: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The same of boxes, of all pairs."""
    first, second = pairs.T
    seen = common(tiles[first], tiles[second])
    a, b = common(boxes[first], seen), common(boxes[second], seen)
    return np.stack([areas(a), areas(b), areas(common(a, b))], 1).astype(np.float64)


def common(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """What two boxes, float32 [..., 4], have in common; its sides may be negative."""
    return np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], -1)


def _around(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([np.minimum(a[..., :2], b[..., :2]), np.maximum(a[..., 2:], b[..., 2:])], -1)


def areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of boxes, float32 [..., 4], in pixels."""
    of_each: NDArray[np.float32] = (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1)
    return of_each
