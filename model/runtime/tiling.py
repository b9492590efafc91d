"""Where the tiles of a large picture lie, and when one is seen again in smaller ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.architecture import ArchitectureConfig
from model.runtime.images.picture import Size
from model.runtime.preprocess import Preprocessing

STEP = 64
"""Tiles begin at multiples of the network's coarsest stride, small ones of half of it: neighbors see an object at
the same phase."""
SMALLEST, LARGEST = 512, 1024
"""The sides in pixels between which a tile's is chosen. The network's limits on proposals and on detections count for
each tile, so a large one finds less where objects are dense; a small one shows less around an object."""
OBJECTS_A_SIDE = 4
"""Tiles are so many times as long as the largest anchor, the largest object that the network was made for."""
OVERLAP = 4
"""Neighbors have one part in so many in common: with the above, the largest anchor."""
LEAST = 256
"""The shortest side of a tile that is split no further."""
PROPOSALS_OF_AN_OBJECT = 10
"""About as many of the best-scored anchors show the same object, until suppression leaves one of them."""


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


def plan_tiles(size: Size, side: int, overlap: int, shift: tuple[int, int] = (0, 0)) -> list[Tile]:
    """Tiles of `side` pixels that overlap by `overlap` or more, row by row. The last ones may be up to `STEP` longer; a
    picture that is smaller than a tile is one. `shift`: how far all but the first row and column begin earlier.

    Raises:
        ValueError: no room is left between two overlaps.
    """
    if not 0 <= overlap <= side // 2:
        raise ValueError(f"an overlap of {overlap} does not fit tiles of {side} pixels: it may be half of them")
    rows, columns = (_spans(length, side, overlap, by) for length, by in zip(size, shift, strict=True))
    return [Tile(top, left, bottom - top, right - left) for top, bottom in rows for left, right in columns]


def _spans(length: int, side: int, overlap: int, shift: int) -> list[tuple[int, int]]:
    if length <= side:
        return [(0, length)]
    step = STEP if side >= 4 * STEP else STEP // 2
    stride = (side - overlap) // step * step or side - overlap
    last = (length - side) // step * step
    starts = [0, *range(stride - shift % stride, last, stride)] if last else []
    return [*((start, start + side) for start in starts), (last, length)]


def tile_side(architecture: ArchitectureConfig, preprocessing: Preprocessing, size: Size) -> int | None:
    """The side of the tiles for a picture of `size`; None where it is best seen whole.

    A network that sees pictures at their own scale (`allow_downscale` is off) was trained at it: `max_size` would
    shrink a larger one below that. One that shrinks every picture to `min_size` has learned from shrunk ones.
    """
    if preprocessing.allow_downscale or max(size) <= preprocessing.max_size or min(size) < preprocessing.min_size:
        return None
    largest = max(side for sides in architecture.anchor_sizes for side in sides)
    side = min(max(OBJECTS_A_SIDE * largest, SMALLEST), LARGEST)
    side = -(-max(side, preprocessing.min_size) // STEP) * STEP  # a smaller one would be enlarged
    return min(side, preprocessing.max_size)


def smaller_tiles(tile: Tile, found: int, architecture: ArchitectureConfig, preprocessing: Preprocessing) -> list[Tile]:
    """The tiles, of half its side, in which a tile must be seen again because the network's limits may have cut some of
    the objects off: it has `found` as many as it can give, or as many as it can propose. None where it is well, or as
    small as tiles get.
    """
    proposals = min(architecture.rpn_pre_nms_top_n_test, architecture.rpn_post_nms_top_n_test)
    side = max(tile.height, tile.width) // 2 // STEP * STEP
    if found < min(architecture.detections_per_image, proposals // PROPOSALS_OF_AN_OBJECT):
        return []
    if side < max(LEAST, preprocessing.min_size) or min(tile.height, tile.width) < side:
        return []
    parts = plan_tiles((tile.height, tile.width), side, side // 2)
    return [replace(part, top=part.top + tile.top, left=part.left + tile.left) for part in parts]
