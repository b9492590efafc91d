"""The chain of a TIFF's directories, walked before anything else is parsed: bounded, and without circles.

TIFF 6.0, section 2; BigTIFF has 8-byte counts and offsets.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from model.runtime.images.data import Data
from model.runtime.images.errors import DamagedImage

MAX_DIRECTORIES: Final = 20_000
_MAX_TAGS: Final = 4096

_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _SUB_DIRECTORIES = 254, 255, 330
_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType."""


@dataclass(frozen=True, slots=True)
class Directory:
    """Where a directory begins in the file, and whether it is a picture of its own, neither reduced nor a mask."""

    offset: int
    full: bool


def full_directories(data: Data) -> list[Directory]:
    """The directories that are pictures, in the file's order; where all in the chain are reduced, those below them.

    If there is no other, the reduced ones. Raises DamagedImage when the chain is broken, circular or endless.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    try:
        first = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
        chain, below = _walk(data, order, big, [first], follow=True)
        full = [directory for directory in chain if directory.full]
        if not full:
            full = [directory for directory in _walk(data, order, big, below, follow=False)[0] if directory.full]
    except struct.error as error:
        raise DamagedImage("the TIFF image is cut short: a directory lies behind the end of the file") from error
    if not chain:
        raise DamagedImage("the TIFF image has no directory, so no picture")
    return full or chain


def _walk(data: Data, order: str, big: bool, starts: list[int], *, follow: bool) -> tuple[list[Directory], list[int]]:
    """Directories in order, and the offsets of those below them."""
    count_format, entry_size, offset_format = ("Q", 20, "Q") if big else ("H", 12, "I")
    entry_format = order + ("HHQQ" if big else "HHII")
    found: list[Directory] = []
    below: list[int] = []
    seen: set[int] = set()
    for start in starts:
        offset = start
        while offset:
            if offset in seen:
                raise DamagedImage("the TIFF image is damaged: its directories point at each other in a circle")
            if len(seen) == MAX_DIRECTORIES:
                raise DamagedImage(f"the TIFF image has more than {MAX_DIRECTORIES} directories")
            seen.add(offset)
            tags = struct.unpack_from(order + count_format, data, offset)[0]
            if tags > _MAX_TAGS:
                raise DamagedImage(f"the TIFF image is damaged: a directory has {tags} tags")
            entries = offset + struct.calcsize(count_format)
            kind = 0
            for position in range(entries, entries + tags * entry_size, entry_size):
                code, width, count, value = struct.unpack_from(entry_format, data, position)
                if code > _SUB_DIRECTORIES:
                    break  # they are sorted
                if code == _NEW_SUBFILE_TYPE:
                    kind |= _left_aligned(value, width, order, big)
                elif code == _SUBFILE_TYPE and _left_aligned(value, width, order, big) == 2:
                    kind |= _REDUCED
                elif code == _SUB_DIRECTORIES:
                    below += _values(data, order, count, width, value, position, big)
            found.append(Directory(offset, not kind & (_REDUCED | _MASK)))
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
