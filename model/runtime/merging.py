"""One answer for a picture of the answers for its tiles.

An object that some tile shows whole is taken from there: of the tiles that see enough around it, as the one has it that
is surest. One that every tile cuts is joined, of pieces that agree where two tiles see them. The picture's own borders
cut nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE, Detections
from model.runtime.images.picture import Size
from model.runtime.kernels.rle import beside, encode_bitmap, place
from model.runtime.sightings import (
    INWARD,
    SAME,
    Pairs,
    Sighting,
    TileAnswer,
    areas,
    common,
    compare,
    order,
    room,
    sides,
    sightings,
    touching,
)
from model.runtime.tiling import Tile

TOUCHING = 2.0
"""A box this near to its tile's border is cut by it: in pixels of the picture or of what the network sees, whichever
are larger."""
ENOUGH = 104.0
"""Pixels around an object, as the network sees it, beyond which more of them tell a tile's view from no other's."""
SURE_SHARE = 7 / 8
"""Of a label's own threshold: what scores more is merged, however much more is asked for. That a tile is a little less
sure of an object than its neighbor is not its word that there is none."""
PIXELS_AT_ONCE = 2**24
"""Of an object that is joined, so many are in memory together: its box may be the whole picture."""
LITTLE = 48.0
"""Of an object with less around it, another tile's word that it is none counts, if that one sees more around it."""

_Agreeing = dict[int, dict[int, float]]
"""With each piece, the others, and what it has in common with each, as a share of its own; with one that is sure, only
such."""


def merge_tiles(
    size: Size, answers: Sequence[TileAnswer], scale: float = 1.0, sure: NDArray[np.float32] | None = None
) -> Detections:
    """One picture's detections of its tiles', in falling score; no tile's order changes the result.

    size: (height, width) of the picture. Boxes, masks and keypoints become the picture's. scale: what the tiles were
    resized by for the network. sure: scores, float32 by label id. What scores more is merged as if nothing else had
    been found: the rest adds objects to it and changes none.
    """
    answers = list({answer.tile: answer for answer in answers}.values())  # split ones may share a part
    merged = _View.of(size, answers, scale, sure).merged()
    merged.sort(key=order)
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
class _View:
    """What is known of a picture: `found` in all tiles, and which of it is `sure`. Boxes of `tiles`, float32 [T, 4],
    each of which is complete above its score, float32 [T]: see `TileAnswer`. `least`: above it lies what is sure.
    Pixels of the picture up to which a border touches a box, that are little around an object, and enough."""

    size: Size
    found: list[Sighting]
    sure: list[bool]
    pairs: Pairs
    tiles: NDArray[np.float32]
    complete_above: NDArray[np.float32]
    least: float
    touching: float
    little: float
    enough: float

    @classmethod
    def of(cls, size: Size, answers: Sequence[TileAnswer], scale: float, sure: NDArray[np.float32] | None) -> _View:
        touching = TOUCHING / min(scale, 1.0)
        found = [one for answer in answers for one in sightings(size, answer, touching)]
        found.sort(key=order)
        tiles = np.array([answer.tile.box for answer in answers], np.float32).reshape(-1, 4)
        complete_above = np.array([answer.complete_above for answer in answers], np.float32)
        are_sure = [sure is None or bool(one.score > sure[one.label]) for one in found]
        least = 0.0 if sure is None else float(sure[1:].min())
        limits = (touching, LITTLE / scale, ENOUGH / scale)
        return cls(size, found, are_sure, compare(found), tiles, complete_above, least, *limits)

    def merged(self) -> list[Sighting]:
        found, sure = self.found, self.sure
        agreeing: _Agreeing = defaultdict(dict)
        alike = []  # one that is sure, and one that is not
        pairs = zip(self.pairs.numbers.tolist(), self.pairs.iou.tolist(), self.pairs.shares.tolist(), strict=True)
        for (a, b), iou, (share_of_a, share_of_b) in pairs:
            if found[a].is_cut and sure[a] <= sure[b]:
                agreeing[a][b] = share_of_a
            if found[b].is_cut and sure[b] <= sure[a]:
                agreeing[b][a] = share_of_b
            if sure[a] != sure[b] and iou >= SAME:
                alike.append((a, b) if sure[a] else (b, a))
        whole = self._whole()
        joined, used = self._joined(True, {number for number in whole if sure[number]}, agreeing)
        known = {less for surely, less in alike if surely in used}
        more, _ = self._joined(False, used.union(whole) - known, agreeing)
        return [found[number] for number in whole if number not in known] + joined + more

    def _whole(self) -> list[int]:
        """The numbers of the objects that a tile shows whole, each as one tile has it: the surest of those that see
        enough around it, else the one that sees the most."""
        found, sure = self.found, self.sure
        group_of = list(range(len(found)))
        members = [[] if one.is_cut else [number] for number, one in enumerate(found)]
        has_sure = list(sure)
        same = np.flatnonzero(self.pairs.iou >= SAME)
        numbers = self.pairs.numbers[same]
        less_sure = ~np.array(sure, np.bool_)[numbers].all(1)  # they join what those that are sure have settled
        for first, second in numbers[np.lexsort((numbers[:, 1], numbers[:, 0], -self.pairs.iou[same], less_sure))]:
            a, b = group_of[first], group_of[second]
            if a == b or not members[a] or not members[b]:
                continue
            if has_sure[a] and has_sure[b] and not (sure[first] and sure[second]):
                continue
            if {found[number].tile for number in members[a]} & {found[number].tile for number in members[b]}:
                continue  # a tile tells two objects apart here
            for number in members[b]:
                group_of[number] = a
            members[a] += members[b]
            has_sure[a] |= has_sure[b]
            members[b] = []
        whole = []
        for group in filter(None, members):
            for level in (True, False):  # where those that are sure are outvoted, the others may be an object
                ones = [number for number in group if sure[number] == level]
                if not ones:
                    continue
                best = max(ones, key=lambda number: (min(found[number].room, self.enough), found[number].score))
                if not self._is_unseen_by_better(best, {found[number].tile for number in (ones if level else group)}):
                    whole.append(best)
                    break
        return whole

    def _joined(self, sure: bool, taken: set[int], agreeing: _Agreeing) -> tuple[list[Sighting], set[int]]:
        """The objects that no tile shows whole, of those that are sure, or of the others: all that the tiles show of
        each together, with the best score; and the numbers of all their pieces. `taken` are objects already."""
        found = self.found
        pieces = {number for number, one in enumerate(found) if one.is_cut and self.sure[number] == sure}
        seen_in = {number: {found[other].tile for other in (number, *agreeing[number])} for number in pieces}
        for number in sorted(pieces):
            known = sum(share for other, share in agreeing[number].items() if other in taken)
            # A large one may have small ones within it.
            is_known = known > SAME or (known > 0 and self._fits(found[number]))
            if is_known or self._is_unseen_by_better(number, seen_in[number]):
                pieces.discard(number)
        joined: list[Sighting] = []
        used: set[int] = set()
        for first in sorted(pieces):
            if first not in pieces:
                continue
            group, reached = [], [first]
            while reached:
                number = reached.pop()
                if number in pieces:
                    pieces.remove(number)
                    group.append(number)
                    reached += agreeing[number]
            if len(group) > 1:
                joined.append(_join([found[number] for number in group]))
            elif self._is_unseen_beyond(first, seen_in[first]):
                continue
            else:
                joined.append(found[first])
            used.update(group)
        return joined, used

    def _fits(self, piece: Sighting) -> bool:
        """Whether a tile shows all of the piece, and something beyond the border that cuts it."""
        rooms = room(self.size, self.tiles, piece.box)
        return bool(rooms.max() > float(touching(piece.box, self.touching)))

    def _complete(self, number: int, seen_in: set[Tile]) -> NDArray[np.bool_]:
        """Whether each tile would have named what is there, and has not seen it; bool [T]."""
        complete = self.complete_above <= (self.least if self.sure[number] else 0.0)
        for tile in seen_in:
            complete &= (self.tiles != tile.box).any(1)
        return complete

    def _is_unseen_by_better(self, number: int, seen_in: set[Tile]) -> bool:
        """Whether there is little around it in its own tile, and one that sees more has found nothing there."""
        one = self.found[number]
        if not one.is_cut and one.room >= self.little:
            return False
        rooms = room(self.size, self.tiles[self._complete(number, seen_in)], one.box)
        return bool(rooms.max(initial=-np.inf) > max(one.room, float(touching(one.box, self.touching))))

    def _is_unseen_beyond(self, number: int, seen_in: set[Tile]) -> bool:
        """Whether a tile that sees half of it, and beyond the border that cuts it, has found nothing there."""
        one, tiles = self.found[number], self.tiles[self._complete(number, seen_in)]
        cut = sides(self.size, one.tile.box, one.box) <= touching(one.box, self.touching)
        beyond = (one.tile.box - tiles) * INWARD > self.touching
        share = areas(common(tiles, one.box)) / max(float(areas(one.box)), 1e-6)
        return bool(((cut & beyond).any(1) & (share >= SAME)).any())


def _join(group: list[Sighting]) -> Sighting:
    best = min(group, key=order)
    box = np.concatenate([np.min([one.box[:2] for one in group], 0), np.max([one.box[2:] for one in group], 0)])
    if best.mask is None:
        return replace(best, box=box)
    left, top = np.floor(box[:2]).astype(int).tolist()
    right, bottom = np.ceil(box[2:]).astype(int).tolist()
    part = Tile(top, left, bottom - top, right - left)
    width = max(PIXELS_AT_ONCE // part.height, 1)
    bands = [Tile(top, x, part.height, min(width, right - x)) for x in range(left, right, width)]
    mask = beside([encode_bitmap(_shown(group, band)) for band in bands])
    return replace(best, box=box, tile=part, mask=mask)


def _shown(group: list[Sighting], part: Tile) -> NDArray[np.bool_]:
    """What the tiles show together in a part of the picture, bool [H, W]."""
    pixels = np.zeros((part.height, part.width), np.bool_)
    for one in group:
        seen = common(one.tile.box, part.box).astype(int).tolist()
        window = Tile(seen[1], seen[0], seen[3] - seen[1], seen[2] - seen[0])
        if window.height < 1 or window.width < 1:
            continue
        rows = slice(window.top - part.top, window.top - part.top + window.height)
        columns = slice(window.left - part.left, window.left - part.left + window.width)
        pixels[rows, columns] |= one.pixels(window) > 0
    return pixels


def _placed(size: Size, one: Sighting) -> RLE:
    assert one.mask is not None
    return place(one.mask, (one.tile.top, one.tile.left), size)
