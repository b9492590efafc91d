"""A picture that is too large to be decoded at once, read part by part.

It is stored in blocks, which are decoded alone. What was decoded last is kept, as much of it as `KEPT` allows, so that
parts that overlap, read row by row, decode hardly any block twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.runtime.images.orientation import stored_part, turned
from model.runtime.images.picture import Picture, PixelSize

KEPT: Final = 192 << 20
"""Bytes of decoded blocks that are kept: a row of tiles of 1,024 pixels across 30,000 pixels of 16-bit RGB."""


@dataclass(frozen=True, slots=True)
class Part:
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


class PictureByRegion:
    """One picture of which any part can be read, upright, as `Picture` has it. Threads may read at the same time.

    size: (height, width) as seen. `dtype` and `channels` are those of the values of every part.
    """

    def __init__(
        self,
        stored: tuple[int, int],
        block: tuple[int, int],
        decode: Callable[[Part], Picture],
        *,
        orientation: int = 1,
        pixel_size: PixelSize | None = None,
    ) -> None:
        """stored: (height, width) in the file, before its orientation; block: (height, width) of a block. `decode`
        gives a block, which the picture's border may cut, as it is stored; it raises ImageError.
        """
        self._stored, self._block, self._decode, self._orientation = stored, block, decode, orientation
        self.size = stored if orientation < 5 else (stored[1], stored[0])
        self._band = block[0] if orientation < 5 else block[1]
        self._blocks: OrderedDict[tuple[int, int], Future[Picture]] = OrderedDict()
        self._kept = 0
        self._lock = Lock()
        first = self._decoded(0, 0)
        self._like = replace(first, values=first.values[:1, :1].copy(), transparent=None, pixel_size=pixel_size)
        self.dtype = first.values.dtype
        self.channels = 1 if first.values.ndim == 2 else int(first.values.shape[2])

    @property
    def like(self) -> Picture:
        """What the file says of the picture; the values are a few of its own."""
        return self._like

    def read(self, top: int, left: int, height: int, width: int) -> Picture:
        """The part that begins in that row and column of the picture as seen. It must lie within. Raises ImageError."""
        part = Part(*stored_part((top, left, height, width), self._stored, self._orientation))
        rows, columns = self._block
        values = np.empty((part.height, part.width, *self._like.values.shape[2:]), self.dtype)
        transparent: NDArray[np.bool_] | None = None
        for row in range(part.top // rows, -(-(part.top + part.height) // rows)):
            for column in range(part.left // columns, -(-(part.left + part.width) // columns)):
                block = self._decoded(row, column)
                into, of = _overlap(part, Part(row * rows, column * columns, *block.values.shape[:2]))
                values[into] = block.values[of]
                if block.transparent is not None:
                    if transparent is None:
                        transparent = np.zeros(values.shape[:2], np.bool_)
                    transparent[into] = block.transparent[of]
        return turned(replace(self._like, values=values, transparent=transparent), self._orientation)

    def bands(self) -> Iterator[Part]:
        """Parts as wide as the picture that cover it from top to bottom, each some whole blocks."""
        height, width = self.size
        return (Part(top, 0, min(self._band, height - top), width) for top in range(0, height, self._band))

    def _decoded(self, row: int, column: int) -> Picture:
        """The block; whoever comes while another thread decodes it waits for that one."""
        key = row, column
        with self._lock:
            block = self._blocks.get(key)
            if block is not None:
                self._blocks.move_to_end(key)
            else:
                mine = self._blocks[key] = Future()
        if block is not None:
            return block.result()
        (height, width), (rows, columns) = self._stored, self._block
        top, left = row * rows, column * columns
        try:
            picture = self._decode(Part(top, left, min(rows, height - top), min(columns, width - left)))
        except BaseException as error:
            with self._lock:
                del self._blocks[key]
            mine.set_exception(error)
            raise
        mine.set_result(picture)
        with self._lock:
            self._kept += _size(picture)
            self._forget()
        return picture

    def _forget(self) -> None:
        """Let the blocks go that were not read for longest, until few enough are kept."""
        for key, block in list(self._blocks.items()):
            if self._kept <= KEPT:
                break
            if block.done():
                self._kept -= _size(block.result())
                del self._blocks[key]


def _overlap(part: Part, block: Part) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Rows and columns that both have, counted from the part's corner and from the block's."""
    top, left = max(part.top, block.top), max(part.left, block.left)
    bottom = min(part.top + part.height, block.top + block.height)
    right = min(part.left + part.width, block.left + block.width)
    into, of = (
        (slice(top - one.top, bottom - one.top), slice(left - one.left, right - one.left)) for one in (part, block)
    )
    return into, of


def _size(picture: Picture) -> int:
    arrays: list[NDArray[Any]] = [picture.values]
    if picture.transparent is not None:
        arrays.append(picture.transparent)
    return sum(array.nbytes for array in arrays)
