"""Where the tiles of a large picture lie, and when one is seen again in smaller ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.architecture import ArchitectureConfig
from model.runtime.images.picture import Size
from model.runtime.preprocess import Preprocessing, scaled

STEP = 64
"""Tiles begin at multiples of the network's coarsest stride, small ones of half of it: neighbors see an object at
the same phase."""
SMALLEST, LARGEST = 768, 1024
"""The sides in pixels between which a tile's is chosen. The network's limits on proposals and on detections count for
each tile, so a large one finds less where objects are dense; a small one shows less around an object."""
OBJECTS_A_SIDE = 4
"""Tiles are so many times as long as the largest anchor, the largest object that the network was made for."""
OVERLAP = 3
"""Neighbors have one part in so many in common: with the above, more than the largest anchor, and of the smallest tiles
so much that some tile shows a hundred pixels around every small object."""
LEAST_OVERLAP = 16
"""Pixels that neighbors must have in common: the pieces of a cut object are joined where both show it."""
LEAST = 256
"""The shortest side of a tile that is split no further."""
MOST = 50_000
"""Tiles of a picture, before any is split: each is kept in mind until all are merged."""
PROPOSALS_OF_AN_OBJECT = 5
"""A tile is crowded with one object to so many proposals, for several of the best-scored anchors show the same one.
Chosen by measuring (docs/benchmarks.md): 10 sees more of a picture twice and moves more objects, 3 loses AP."""
SHORTER = 2 / 3
"""Parts of a crowded tile to its length: four cover it, with less than half of its objects each. Shorter ones show less
around an object, and answers then depend on where they lie."""


class TooManyTiles(ValueError):
    """Small tiles of a large picture; the message says how many."""


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
        """The tile's pixels as a view of the picture's, uint8 [H, W, C]."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


def plan_tiles(size: Size, side: int, overlap: int, shift: tuple[int, int] = (0, 0), scale: float = 1.0) -> list[Tile]:
    """Tiles of `side` pixels that overlap by `overlap` or more, row by row. The last ones may be up to `STEP` longer; a
    picture that is smaller than a tile is one. `shift`: how far all but the first row and column begin earlier.

    All of these are pixels of the picture resized by `scale`, as the network sees it; `size` and the tiles are the
    picture's own, to the nearest pixel.

    Raises:
        ValueError: no room is left between two overlaps.
        TooManyTiles: there would be more than `MOST`.
    """
    if not 0 <= overlap <= side // 2:
        raise ValueError(f"an overlap of {overlap} does not fit tiles of {side} pixels: it may be half of them")
    rows, columns = (
        [(_unscaled(start, length, seen, scale), _unscaled(end, length, seen, scale)) for start, end in spans]
        for length, seen, spans in (
            (length, seen, _spans(seen, side, overlap, by))
            for length, seen, by in zip(size, scaled(size, scale), shift, strict=True)
        )
    )
    if (count := len(rows) * len(columns)) > MOST:
        raise TooManyTiles(f"that would be {count} tiles, and at most {MOST} are seen of a picture")
    return [Tile(top, left, bottom - top, right - left) for top, bottom in rows for left, right in columns]


def _unscaled(place: int, length: int, seen: int, scale: float) -> int:
    """Where a place of `seen` resized pixels lies among the `length` of the picture."""
    return length if place == seen else int(place / scale + 0.5)


def _spans(length: int, side: int, overlap: int, shift: int) -> list[tuple[int, int]]:
    if length <= side:
        return [(0, length)]
    step = STEP if side >= 4 * STEP else STEP // 2
    stride = (side - overlap) // step * step or side - overlap
    last = (length - side) // step * step
    starts = [0, *range(stride - shift % stride, last, stride)] if last else []
    return [*((start, start + side) for start in starts), (last, length)]


def tile_side(
    architecture: ArchitectureConfig, preprocessing: Preprocessing, size: Size, scale: float | None = None
) -> int | None:
    """The side of the tiles for a picture of `size`, as the network sees them; None where it is best seen whole.

    A network that sees pictures at their own scale (`allow_downscale` is off) was trained at it: `max_size` would
    shrink a larger one below that. One that shrinks every picture to `min_size` has learned from shrunk ones. Where a
    `scale` is asked for, `max_size` would shrink what is longer at it.
    """
    if scale is not None:
        if max(scaled(size, scale)) <= preprocessing.max_size:
            return None
    elif preprocessing.allow_downscale or max(size) <= preprocessing.max_size:
        return None
    largest = max(side for sides in architecture.anchor_sizes for side in sides)
    side = min(max(OBJECTS_A_SIDE * largest, SMALLEST), LARGEST)
    if scale is not None:  # longer tiles, and those of rounded borders, shall not be shrunk either
        return min(-(-side // STEP) * STEP, max(preprocessing.max_size - 2 * STEP, STEP))
    side = -(-max(side, preprocessing.min_size) // STEP) * STEP  # a smaller one would be enlarged
    return min(side, preprocessing.max_size)


def smaller_tiles(
    tile: Tile,
    found: int,
    sure: int,
    architecture: ArchitectureConfig,
    preprocessing: Preprocessing,
    scale: float | None = None,
) -> list[Tile]:
    """The tiles, of two thirds of its side, in which a tile must be seen again because the network's limits may have
    cut some of the objects off: it has `found` as many detections as it can give, or is `sure` of as many objects as it
    can propose (what the model's own thresholds keep, as below them a low threshold finds any number). None where it is
    well, or as small as tiles get, as the network sees them at `scale`.
    """
    factor, least, rounded = 1.0, max(LEAST, preprocessing.min_size), 0  # a smaller one would be enlarged
    if scale is not None:
        factor, least, rounded = scale, LEAST, math.ceil(scale)  # a pixel of the picture
    height, width = scaled((tile.height, tile.width), factor)
    proposals = min(architecture.rpn_pre_nms_top_n_test, architecture.rpn_post_nms_top_n_test)
    side = math.ceil((max(height, width) - rounded) * SHORTER / STEP) * STEP
    side = min(side, min(height, width) // STEP * STEP)
    if found < architecture.detections_per_image and sure < proposals // PROPOSALS_OF_AN_OBJECT:
        return []
    if side < least:
        return []
    parts = plan_tiles((tile.height, tile.width), side, side // 2, scale=factor)
    if len(parts) == 1:  # the last tile may be longer than others, so it is the whole
        return []
    return [replace(part, top=part.top + tile.top, left=part.left + tile.left) for part in parts]
