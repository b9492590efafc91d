"""The chain of a TIFF's directories, walked before anything else is parsed: bounded, and without circles.

TIFF 6.0, section 2; BigTIFF has 8-byte counts and offsets. Directories and values of tags may lie anywhere in a file,
over each other too: a small file can announce far more of both than its bytes hold.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import Final

from model.runtime.images.data import Data
from model.runtime.images.errors import DamagedImage

MAX_DIRECTORIES: Final = 20_000
MAX_SEGMENTS: Final = 200_000
"""Strips or tiles of a picture."""
MAX_ALL_TAGS: Final = 1_000_000
_MAX_TAGS: Final = 4096
_MAX_LISTED: Final = 2_000_000
_BYTES_LISTED: Final = 128
"""Strips, tiles and directories below that all directories list, and of how many bytes the file may list one more."""
_SHARED: Final = 64 << 20
"""Bytes by which all values together may be longer than the file. Some programs write one that two tags refer to."""

_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _SUB_DIRECTORIES = 254, 255, 330
_SIDES: Final = (256, 257, 277)
"""ImageWidth, ImageLength, SamplesPerPixel."""
_LISTS: Final = frozenset((273, 279, 324, 325, _SUB_DIRECTORIES, 513, 514))
"""Tags whose values are as many as there are strips, tiles, or directories below."""
_NUMBERS: Final = frozenset((*range(254, 533), 33628))
"""Tags whose numbers are read at once; the last is STK's, a list of its own."""
_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType."""
SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of each type."""


@dataclass(frozen=True, slots=True)
class Directory:
    """Where a directory begins in the file, whether it is a picture of its own, neither reduced nor a mask, and how
    many samples its picture has at least (width x height x samples of a pixel), going by its tags.
    """

    offset: int
    full: bool
    samples: int


@dataclass(slots=True)
class _Walk:
    """What was found so far, of which there may be only so much in all."""

    data: Data
    seen: set[int] = field(default_factory=set)
    tags: int = 0
    listed: int = 0
    valued: int = 0

    def visit(self, offset: int) -> None:
        if offset in self.seen:
            raise DamagedImage("the TIFF image is damaged: its directories point at each other in a circle")
        if len(self.seen) == MAX_DIRECTORIES:
            raise DamagedImage(f"the TIFF image has more than {MAX_DIRECTORIES} directories")
        self.seen.add(offset)

    def count(self, tags: int) -> None:
        self.tags += tags
        if tags > _MAX_TAGS:
            raise DamagedImage(f"the TIFF image is damaged: a directory has {tags} tags")
        if self.tags > MAX_ALL_TAGS:
            raise DamagedImage(f"the TIFF image has more than {MAX_ALL_TAGS} tags in its directories")

    def value(self, code: int, kind: int, count: int, size: int, at: int) -> None:
        """A value that lies outside of its tag. One behind the file's end nobody reads."""
        if at + size > len(self.data):
            return
        self.valued += size
        if self.valued > len(self.data) + _SHARED:
            raise DamagedImage("the TIFF image is damaged: the values of its tags lie over each other")
        if code in _LISTS:
            self.listed += count
            if self.listed > _MAX_LISTED + len(self.data) // _BYTES_LISTED:
                raise DamagedImage(f"the TIFF image lists more than {_MAX_LISTED} strips or tiles")
        elif code in _NUMBERS and kind not in (1, 2, 7) and count > MAX_SEGMENTS:
            raise DamagedImage(f"the TIFF image has {count} numbers in tag {code}, and at most {MAX_SEGMENTS} are read")


def full_directories(data: Data) -> list[Directory]:
    """The directories that are pictures, in the file's order; where all in the chain are reduced, those below them.

    If there is no other, the reduced ones. Raises DamagedImage when the chain is broken, circular or endless.
    """
    chain, below = _chain(_Walk(data))
    full = [directory for directory in chain if directory.full]
    if not full:
        full = [directory for directory in _found(_Walk(data), below, follow=False)[0] if directory.full]
    return full or chain


def check_below(data: Data) -> int:
    """Raises DamagedImage unless the directories below those of the chain are as tifffile may read all of them: each
    once, and none with others below itself. Returns how many samples the smallest picture of the chain has.
    """
    walk = _Walk(data)
    chain, below = _chain(walk)
    if _found(walk, below, follow=False)[1]:
        raise DamagedImage("the TIFF image cannot be read: directories below its pages have others below themselves")
    return min(directory.samples for directory in chain)


def _chain(walk: _Walk) -> tuple[list[Directory], list[int]]:
    """The directories of the file, at least one, and the offsets of those below them."""
    order, big = _layout(walk.data)
    try:
        first = struct.unpack_from(order + ("Q" if big else "I"), walk.data, 8 if big else 4)[0]
    except struct.error as error:
        raise _cut_short() from error
    chain, below = _found(walk, [first], follow=True)
    if not chain:
        raise DamagedImage("the TIFF image has no directory, so no picture")
    return chain, below


def _found(walk: _Walk, starts: list[int], *, follow: bool) -> tuple[list[Directory], list[int]]:
    try:
        return _walked(walk, starts, follow=follow)
    except struct.error as error:
        raise _cut_short() from error


def _cut_short() -> DamagedImage:
    return DamagedImage("the TIFF image is cut short: a directory lies behind the end of the file")


def _layout(data: Data) -> tuple[str, bool]:
    """The order of its bytes, and whether it is a BigTIFF."""
    return "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")


def _walked(walk: _Walk, starts: list[int], *, follow: bool) -> tuple[list[Directory], list[int]]:
    """Directories in order, and the offsets of those below them."""
    data = walk.data
    order, big = _layout(data)
    count_format, entry_size, offset_format = ("Q", 20, "Q") if big else ("H", 12, "I")
    entry_format = order + ("HHQQ" if big else "HHII")
    inside = 8 if big else 4
    found: list[Directory] = []
    below: list[int] = []
    for start in starts:
        offset = start
        while offset:
            walk.visit(offset)
            tags = struct.unpack_from(order + count_format, data, offset)[0]
            walk.count(tags)
            entries = offset + struct.calcsize(count_format)
            kind = 0
            sides: dict[int, int] = {}
            for position in range(entries, entries + tags * entry_size, entry_size):
                code, width, count, value = struct.unpack_from(entry_format, data, position)
                if (size := count * SIZES.get(width, 0)) > inside:
                    walk.value(code, width, count, size, value)
                if code == _NEW_SUBFILE_TYPE:
                    kind |= _left_aligned(value, width, order, big)
                elif code == _SUBFILE_TYPE and _left_aligned(value, width, order, big) == 2:
                    kind |= _REDUCED
                elif code in _SIDES:
                    is_number = count == 1 and (width in (3, 4) or (width == 16 and big))
                    side = max(1, _left_aligned(value, width, order, big)) if is_number else 1
                    sides[code] = min(side, sides.get(code, side))
                elif code == _SUB_DIRECTORIES:
                    below += _values(data, order, count, width, value, position, big)
            found.append(Directory(offset, not kind & (_REDUCED | _MASK), math.prod(sides.values())))
            offset = 0
            if follow:
                end = entries + tags * entry_size
                offset = struct.unpack_from(order + offset_format, data, end)[0]
    return found, below


def _left_aligned(value: int, width: int, order: str, big: bool) -> int:
    """The number in an entry's 4 or 8 bytes, which it fills from the left: 2 bytes of it if its type is short."""
    size = {3: 2, 4: 4}.get(width, 8 if big else 4)
    return value >> 8 * ((8 if big else 4) - size) if order == ">" else value & ((1 << 8 * size) - 1)


def _values(data: Data, order: str, count: int, width: int, value: int, position: int, big: bool) -> list[int]:
    """Offsets of sub-directories: 4 or 8 bytes each, in the entry if they fit there."""
    size = 8 if width in (16, 18) else 4
    if count > MAX_DIRECTORIES:
        raise DamagedImage(f"the TIFF image is damaged: a directory announces {count} others below it")
    inside = count * size <= (8 if big else 4)
    start = position + (12 if big else 8) if inside else value
    return list(struct.unpack_from(f"{order}{count}{'Q' if size == 8 else 'I'}", data, start))
