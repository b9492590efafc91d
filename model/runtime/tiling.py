"""Large pictures in overlapping tiles: where they lie, and one answer of the tiles' answers.

Of a place that several tiles show, the one decides that sees the most around it. An object that is whole in a tile is
taken from there. One that is cut in every tile is joined, from masks that agree where both tiles see it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE, Detections
from model.runtime.kernels.rle import decode_part, encode_bitmap, place
from model.runtime.preprocess import Preprocessing, Size

STEP = 32
"""Tiles begin at multiples of the network's coarsest stride, so that neighbors see an object at the same phase."""
LARGEST = 1024
"""The longest side of a tile in pixels, where the network would take a larger one: its limits on proposals and on
detections count for each tile, so a larger tile finds less where objects are dense."""
LEAST = 256
"""The shortest side of a tile that is split no further."""
TOUCHING = 1.0
"""A box this near to its tile's border, in pixels, is cut by it."""
SAME = 0.5
"""IoU from which two tiles' masks, where both tiles see, are one object; as NMS has it for boxes."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a picture, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def box(self) -> NDArray[np.float32]:
        """float32 [4], (x1, y1, x2, y2)."""
        return np.array([self.left, self.top, self.left + self.width, self.top + self.height], np.float32)

    def of(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The tile's pixels as a view of the picture's, uint8 [H, W, 3]."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, slots=True, eq=False)
class TileAnswer:
    """What the network found in a tile, in pixels of the tile. `full`: a limit on detections may have cut some off."""

    tile: Tile
    detections: Detections
    full: bool = False


def plan_tiles(size: Size, side: int, overlap: int) -> list[Tile]:
    """Tiles of `side` pixels that overlap by `overlap` or more, row by row. The last ones may be up to `STEP` longer; a
    picture that is smaller than a tile is one.

    Raises:
        ValueError: no room is left between two overlaps.
    """
    if not 0 <= overlap <= side // 2:
        raise ValueError(f"an overlap of {overlap} does not fit tiles of {side} pixels: it may be half of them")
    rows, columns = (_spans(length, side, overlap) for length in size)
    return [Tile(top, left, bottom - top, right - left) for top, bottom in rows for left, right in columns]


def _spans(length: int, side: int, overlap: int) -> list[tuple[int, int]]:
    if length <= side:
        return [(0, length)]
    stride = max(STEP, (side - overlap) // STEP * STEP)
    last = (length - side) // STEP * STEP
    return [*((start, start + side) for start in range(0, last, stride)), (last, length)]


def tile_side(preprocessing: Preprocessing, size: Size) -> int | None:
    """The side of the tiles for a picture of `size`; None where it is best seen whole.

    A network that sees pictures at their own scale (`allow_downscale` is off) was trained at it: `max_size` would
    shrink a larger one below that. One that shrinks every picture to `min_size` has learned from shrunk ones.
    """
    if preprocessing.allow_downscale or max(size) <= preprocessing.max_size or min(size) < preprocessing.min_size:
        return None
    return min(preprocessing.max_size, LARGEST) // STEP * STEP


def split(tile: Tile) -> list[Tile]:
    """The tile in tiles of half its side: for one that shows more than the network finds at once."""
    side = max(tile.height, tile.width) // 2 // STEP * STEP
    parts = plan_tiles((tile.height, tile.width), side, side // 4)
    return [replace(part, top=part.top + tile.top, left=part.left + tile.left) for part in parts]


def merge_tiles(size: Size, answers: Sequence[TileAnswer]) -> Detections:
    """One picture's detections of its tiles', in falling score; no tile's order changes the result.

    size: (height, width) of the picture. Boxes, masks and keypoints become the picture's.
    """
    found = [one for answer in answers for one in _objects(size, answer)]
    found.sort(key=lambda one: (-one.score, *one.box.tolist()))
    tiles = np.array([answer.tile.box for answer in answers], np.float32).reshape(-1, 4)
    deciding = tiles[[not answer.full for answer in answers]]
    merged = [one for group in _groups(found) if (one := _resolve(size, group, deciding)) is not None]
    merged.sort(key=lambda one: (-one.score, *one.box.tolist()))
    parts = [answer.detections for answer in answers]
    with_masks = any(part.masks is not None for part in parts)
    keypoints = None
    if any(part.keypoints is not None for part in parts):
        shape = next(part.keypoints for part in parts if part.keypoints is not None).shape[1:]
        keypoints = np.array([one.keypoints for one in merged], np.float32).reshape(-1, *shape)
    return Detections(
        boxes=np.array([one.box for one in merged], np.float32).reshape(-1, 4),
        scores=np.array([one.score for one in merged], np.float32),
        labels=np.array([one.label for one in merged], np.int64),
        masks=[_placed(size, one) for one in merged] if with_masks else None,
        keypoints=keypoints,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Object:
    """One detection. box float32 [4] in the picture; `mask` lies at `tile`'s corner; `room`: see `_room`."""

    answer: TileAnswer
    tile: Tile
    box: NDArray[np.float32]
    score: float
    label: int
    room: float
    mask: RLE | None
    keypoints: NDArray[np.float32] | None

    @property
    def is_cut(self) -> bool:
        return self.room <= TOUCHING


def _objects(size: Size, answer: TileAnswer) -> Iterator[_Object]:
    tile, detections = answer.tile, answer.detections
    offset = np.array([tile.left, tile.top], np.float32)
    boxes = detections.boxes + np.tile(offset, 2)
    rooms = _room(size, tile.box, boxes)
    for row, box in enumerate(boxes):
        keypoints = None
        if detections.keypoints is not None:
            keypoints = detections.keypoints[row] + np.append(offset, np.float32(0))
        yield _Object(
            answer,
            tile,
            box,
            float(detections.scores[row]),
            int(detections.labels[row]),
            float(rooms[row]),
            None if detections.masks is None else detections.masks[row],
            keypoints,
        )


def _room(size: Size, tiles: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels between a box and the nearest border of a tile that is not the picture's too: what the network sees around
    the object. Negative where the box reaches out of the tile. tiles and boxes: float32 [4] or [N, 4], one for many or
    many for one; as many rooms."""
    height, width = size
    inside = (tiles > 0) & (tiles < np.array([width, height, width, height]))  # borders within the picture
    sides = np.where(inside, (boxes - tiles) * np.array([1, 1, -1, -1], np.float32), np.float32(np.inf))
    rooms: NDArray[np.float32] = sides.min(-1)
    return rooms


def _groups(found: list[_Object]) -> list[list[_Object]]:
    """The detections that are one object, seen from different tiles; at most one of each tile."""
    boxes = np.array([one.box for one in found], np.float32).reshape(-1, 4)
    group_of = list(range(len(found)))
    members: list[list[int]] = [[number] for number in group_of]
    pairs = [
        (same, first, second) for first, second in _near(boxes) if (same := _same(found[first], found[second])) >= SAME
    ]
    for _, first, second in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        a, b = group_of[first], group_of[second]
        tiles = {found[number].tile for number in members[a]}
        if a == b or any(found[number].tile in tiles for number in members[b]):
            continue
        for number in members[b]:
            group_of[number] = a
        members[a] += members[b]
        members[b] = []
    return [[found[number] for number in group] for group in members if group]


def _near(boxes: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of boxes that have something in common."""
    order = np.argsort(boxes[:, 0], kind="stable")
    left, right = boxes[order, 0], boxes[order, 2]
    for place_, number in enumerate(order.tolist()):
        stop = int(np.searchsorted(left, right[place_], "left"))
        others = order[place_ + 1 : stop]
        common = (boxes[others, 1] < boxes[number, 3]) & (boxes[others, 3] > boxes[number, 1])
        for other in others[common].tolist():
            yield min(number, other), max(number, other)


def _same(one: _Object, other: _Object) -> float:
    """IoU of two detections where both tiles see; 0 for two of one tile or of different classes."""
    if one.tile == other.tile or one.label != other.label:
        return 0.0
    seen = _common(one.tile.box, other.tile.box)
    if one.mask is None or other.mask is None:
        a, b = _common(one.box, seen), _common(other.box, seen)
        shared = _area(_common(a, b))
        return shared / max(_area(a) + _area(b) - shared, 1e-9)
    extent = _common(_around(one.box, other.box), seen)
    left, top = np.floor(extent[:2]).astype(int).tolist()
    right, bottom = np.ceil(extent[2:]).astype(int).tolist()
    if right <= left or bottom <= top:
        return 0.0
    window = Tile(top, left, bottom - top, right - left)
    mine, theirs = _pixels(one, window), _pixels(other, window)
    return float((mine & theirs).sum() / max((mine | theirs).sum(), 1))


def _resolve(size: Size, group: list[_Object], deciding: NDArray[np.float32]) -> _Object | None:
    """The object that a group of detections is; None where a tile that sees more around it has found nothing there.

    deciding: float32 [T, 4], the tiles that could name all that they saw.
    """
    best = max(group, key=lambda one: (one.room, one.score))
    if best.is_cut and len(group) > 1:
        return _joined(group)
    rooms = _room(size, deciding, best.box)
    for one in group:  # these have found it
        rooms[(deciding == one.tile.box).all(1)] = -np.inf
    return None if rooms.max(initial=-np.inf) > max(best.room, TOUCHING) else best


def _joined(group: list[_Object]) -> _Object:
    """An object that no tile shows whole: all that the tiles show of it together, with the best score."""
    best = max(group, key=lambda one: one.score)
    box = np.concatenate([np.min([one.box[:2] for one in group], 0), np.max([one.box[2:] for one in group], 0)])
    if best.mask is None:
        return replace(best, box=box)
    left, top = np.floor(box[:2]).astype(int).tolist()
    right, bottom = np.ceil(box[2:]).astype(int).tolist()
    part = Tile(top, left, bottom - top, right - left)
    pixels = np.zeros((part.height, part.width), np.uint8)
    for one in group:
        seen = _common(one.tile.box, part.box).astype(int).tolist()
        window = Tile(seen[1], seen[0], seen[3] - seen[1], seen[2] - seen[0])
        rows = slice(window.top - part.top, window.top - part.top + window.height)
        columns = slice(window.left - part.left, window.left - part.left + window.width)
        pixels[rows, columns] |= _pixels(one, window)
    return replace(best, box=box, tile=part, mask=encode_bitmap(pixels > 0))


def _pixels(one: _Object, window: Tile) -> NDArray[np.uint8]:
    """The mask, uint8 of 0 and 1, inside `window` of the picture, which lies in the object's tile."""
    assert one.mask is not None
    part = (window.top - one.tile.top, window.left - one.tile.left, window.height, window.width)
    return decode_part(one.mask, part, (window.height, window.width))


def _placed(size: Size, one: _Object) -> RLE:
    assert one.mask is not None
    return place(one.mask, (one.tile.top, one.tile.left), size)


def _common(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """What two boxes have in common; its sides may be negative."""
    return np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])])


def _around(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])


def _area(box: NDArray[np.float32]) -> float:
    width, height = np.maximum(box[2:] - box[:2], 0).tolist()
    return float(width * height)
