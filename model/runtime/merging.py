"""One answer for a picture of the answers for its tiles.

Of a place that several tiles show, the one decides that sees the most around it: an object that is whole in a tile is
taken from there. One that is cut in every tile is joined, of pieces that agree where two tiles see them. The picture's
own borders cut nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE, Detections
from model.runtime.images.picture import Size
from model.runtime.kernels.rle import decode_part, encode_bitmap, place
from model.runtime.tiling import Tile

TOUCHING, TOUCHING_SHARE = 2.0, 0.05
"""A box this near to its tile's border is cut by it: in pixels of the picture or of what the network sees, whichever
are larger, or as a share of its longer side, as the box of a large object ends short of the border by more."""
SAME = 0.5
"""IoU from which two tiles' masks, where both tiles see, are one object; as NMS has it for boxes. Of pieces, the share
of the smaller one: what one tile shows as one, another may show in two parts."""
INWARD = np.array([1, 1, -1, -1], np.float32)
"""Signs of (x1, y1, x2, y2) with which what lies further in is larger."""


@dataclass(frozen=True, slots=True, eq=False)
class TileAnswer:
    """What the network found in a tile, in pixels of the tile. `full`: a limit on detections may have cut some off."""

    tile: Tile
    detections: Detections
    full: bool = False


def merge_tiles(size: Size, answers: Sequence[TileAnswer], scale: float = 1.0) -> Detections:
    """One picture's detections of its tiles', in falling score; no tile's order changes the result.

    size: (height, width) of the picture. Boxes, masks and keypoints become the picture's. scale: what the tiles were
    resized by for the network.
    """
    touching = TOUCHING / min(scale, 1.0)
    answers = list({answer.tile: answer for answer in answers}.values())  # split ones may share a part
    found = [one for answer in answers for one in _objects(size, answer, touching)]
    found.sort(key=_order)
    tiles = np.array([answer.tile.box for answer in answers], np.float32).reshape(-1, 4)
    view = _View(size, found, tiles[[not answer.full for answer in answers]], _compare(found), touching)
    whole = _whole(view)
    merged = [found[number] for number in whole] + _joined(view, whole)
    merged.sort(key=_order)
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
    """One detection. box float32 [4] in the picture; `mask` lies at `tile`'s corner; `room`: see `_room`, of which it
    has little where the tile's border cuts it."""

    tile: Tile
    box: NDArray[np.float32]
    score: float
    label: int
    room: float
    is_cut: bool
    mask: RLE | None
    keypoints: NDArray[np.float32] | None


def _order(one: _Object) -> tuple[float, ...]:
    return (-one.score, *one.box.tolist(), one.tile.top, one.tile.left, one.tile.height, one.tile.width)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two detections, by number, of different tiles: their IoU where both see, and what they share of the smaller."""

    first: int
    second: int
    iou: float
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """What is known of a picture: `found` in all tiles, `tiles` [T, 4] that could name all that they saw. A box within
    `touching` pixels of a border, or `TOUCHING_SHARE`, is cut by it."""

    size: Size
    found: list[_Object]
    tiles: NDArray[np.float32]
    pairs: list[_Pair]
    touching: float

    def is_unseen_by_better(self, one: _Object, seen_in: set[Tile]) -> bool:
        """Whether a tile that sees more around it than its own has found nothing there."""
        rooms = _room(self.size, self.tiles, one.box)
        for tile in seen_in:
            rooms[(self.tiles == tile.box).all(1)] = -np.inf
        return bool(rooms.max(initial=-np.inf) > max(one.room, float(_touching(one.box, self.touching))))

    def is_unseen_beyond(self, one: _Object, seen_in: set[Tile]) -> bool:
        """Whether a tile that sees half of it, and beyond the border that cuts it, has found nothing there."""
        cut = _sides(self.size, one.tile.box, one.box) <= _touching(one.box, self.touching)
        beyond = (one.tile.box - self.tiles) * INWARD > self.touching
        seen = np.minimum(self.tiles[:, 2:], one.box[2:]) - np.maximum(self.tiles[:, :2], one.box[:2])
        share = seen.clip(0).prod(1) / max(_area(one.box), 1e-6)
        looks = (cut & beyond).any(1) & (share >= SAME)
        for tile in seen_in:
            looks &= (self.tiles != tile.box).any(1)
        return bool(looks.any())


def _objects(size: Size, answer: TileAnswer, touching: float) -> Iterator[_Object]:
    tile, detections = answer.tile, answer.detections
    offset = np.array([tile.left, tile.top], np.float32)
    boxes = detections.boxes + np.tile(offset, 2)
    rooms = _room(size, tile.box, boxes)
    cut = rooms <= _touching(boxes, touching)
    for row, box in enumerate(boxes):
        keypoints = None
        if detections.keypoints is not None:
            keypoints = detections.keypoints[row] + np.append(offset, np.float32(0))
        yield _Object(
            tile,
            box,
            float(detections.scores[row]),
            int(detections.labels[row]),
            float(rooms[row]),
            bool(cut[row]),
            None if detections.masks is None else detections.masks[row],
            keypoints,
        )


def _room(size: Size, tiles: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels between a box and the nearest border of a tile that is not the picture's too: what the network sees around
    the object. Negative where the box reaches out of the tile. tiles and boxes: float32 [4] or [N, 4], one for many or
    many for one; as many rooms."""
    rooms: NDArray[np.float32] = _sides(size, tiles, boxes).min(-1)
    return rooms


def _sides(size: Size, tiles: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same of each side, [4] or [N, 4]; without end where the tile's border is the picture's."""
    height, width = size
    inside = (tiles > 0) & (tiles < np.array([width, height, width, height]))  # borders within the picture
    return np.where(inside, (boxes - tiles) * INWARD, np.float32(np.inf))


def _touching(boxes: NDArray[np.float32], least: float) -> NDArray[np.float32]:
    """The room up to which a tile's border cuts a box; boxes float32 [4] or [N, 4]."""
    longer = (boxes[..., 2:] - boxes[..., :2]).max(-1)
    touching: NDArray[np.float32] = np.maximum(TOUCHING_SHARE * longer, np.float32(least))
    return touching


def _whole(view: _View) -> list[int]:
    """The numbers of the objects that a tile shows whole, each as the tile has it that sees the most around it."""
    found = view.found
    group_of = list(range(len(found)))
    members = [[] if one.is_cut else [number] for number, one in enumerate(found)]
    seen_in = [{one.tile} for one in found]  # cut or not
    for pair in sorted(view.pairs, key=lambda pair: (-pair.iou, pair.first, pair.second)):
        if pair.iou < SAME:
            break
        seen_in[pair.first].add(found[pair.second].tile)
        seen_in[pair.second].add(found[pair.first].tile)
        a, b = group_of[pair.first], group_of[pair.second]
        if a == b or not members[a] or not members[b]:
            continue
        if {found[number].tile for number in members[a]} & {found[number].tile for number in members[b]}:
            continue  # a tile tells two objects apart here
        for number in members[b]:
            group_of[number] = a
        members[a] += members[b]
        members[b] = []
    whole = []
    for group in filter(None, members):
        best = max(group, key=lambda number: (found[number].room, found[number].score))
        if not view.is_unseen_by_better(found[best], set().union(*(seen_in[number] for number in group))):
            whole.append(best)
    return whole


def _joined(view: _View, whole: list[int]) -> list[_Object]:
    """The objects that no tile shows whole: all that the tiles show of each together, with the best score."""
    found, taken = view.found, set(whole)
    pieces = {number for number, one in enumerate(found) if one.is_cut}
    agreeing: dict[int, list[int]] = defaultdict(list)
    for pair in view.pairs:
        if pair.share >= SAME:
            agreeing[pair.first].append(pair.second)
            agreeing[pair.second].append(pair.first)
    seen_in = {number: {found[other].tile for other in (number, *agreeing[number])} for number in pieces}
    for number in sorted(pieces):
        if not taken.isdisjoint(agreeing[number]) or view.is_unseen_by_better(found[number], seen_in[number]):
            pieces.discard(number)
    joined = []
    while pieces:
        first = min(pieces)
        group, reached = [], [first]
        while reached:
            number = reached.pop()
            if number in pieces:
                pieces.remove(number)
                group.append(found[number])
                reached += agreeing[number]
        if len(group) > 1:
            joined.append(_join(group))
        elif not view.is_unseen_beyond(group[0], seen_in[first]):
            joined.append(group[0])
    return joined


def _compare(found: list[_Object]) -> list[_Pair]:
    boxes = np.array([one.box for one in found], np.float32).reshape(-1, 4)
    return [
        _Pair(first, second, *alike)
        for first, second in _near(boxes)
        if found[first].tile != found[second].tile and found[first].label == found[second].label
        if (alike := _alike(found[first], found[second]))[1] >= SAME
    ]


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


def _alike(one: _Object, other: _Object) -> tuple[float, float]:
    """IoU, and what is shared of the smaller, of two detections where both their tiles see."""
    seen = _common(one.tile.box, other.tile.box)
    if one.mask is None or other.mask is None:
        a, b = _common(one.box, seen), _common(other.box, seen)
        areas, shared = (_area(a), _area(b)), _area(_common(a, b))
    else:
        extent = _common(_around(one.box, other.box), seen)
        left, top = np.floor(extent[:2]).astype(int).tolist()
        right, bottom = np.ceil(extent[2:]).astype(int).tolist()
        if right <= left or bottom <= top:
            return 0.0, 0.0
        window = Tile(top, left, bottom - top, right - left)
        mine, theirs = _pixels(one, window), _pixels(other, window)
        areas, shared = (float(mine.sum()), float(theirs.sum())), float((mine & theirs).sum())
    if not shared:
        return 0.0, 0.0
    return shared / (sum(areas) - shared), shared / min(areas)


def _join(group: list[_Object]) -> _Object:
    best = min(group, key=_order)
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


def unlike(size: Size, found: Detections, others: Detections) -> NDArray[np.intp]:
    """The rows of `found` that are no object of `others`: none of the label, with IoU `SAME` of the masks, or of the
    boxes where there are none. Both are in pixels of a picture of `size`."""
    whole = Tile(0, 0, *size)
    mine, theirs = (list(_objects(size, TileAnswer(whole, part), 0.0)) for part in (found, others))
    same: set[int] = set()
    for first, second in _near(np.concatenate([found.boxes, others.boxes]).reshape(-1, 4)):
        if first < len(mine) <= second and first not in same:
            other = theirs[second - len(mine)]
            if mine[first].label == other.label and _alike(mine[first], other)[0] >= SAME:
                same.add(first)
    return np.array([row for row in range(len(mine)) if row not in same], np.intp)
