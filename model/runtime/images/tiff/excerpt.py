"""Some strips or tiles of a TIFF as a TIFF of their own, which Pillow reads as it reads the whole."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from model.runtime.images.data import Data
from model.runtime.images.errors import DamagedImage
from model.runtime.images.regions import Part
from model.runtime.images.tiff.directories import SIZES

_WIDTH, _LENGTH, _ROWS_PER_STRIP = 256, 257, 278
_STRIP_OFFSETS, _STRIP_COUNTS, _TILE_OFFSETS, _TILE_COUNTS = 273, 279, 324, 325
_LONG: Final = 4
_KEPT: Final = frozenset(
    {
        *(258, 259, 262, 266, 277, 284),  # BitsPerSample, Compression, Photometric, FillOrder, Samples, PlanarConfig
        *(292, 293, 317, 320, 322, 323),  # T4 and T6 options, Predictor, ColorMap, TileWidth, TileLength
        *(332, 338, 339, 347),  # InkSet, ExtraSamples, SampleFormat, JPEGTables
        *(529, 530, 531, 532),  # YCbCr: Coefficients, SubSampling, Positioning, ReferenceBlackWhite
    }
)
"""Tags that say how to decode; the others say what the picture is, or where."""


def decoding_tags(data: Data, directory: int) -> list[tuple[int, int, int, bytes]]:
    """(tag, type, count, value's bytes) of the directory at that offset, as far as Pillow needs them to decode."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count_format, entry_size, inside = (order + "Q", 20, 8) if big else (order + "H", 12, 4)
    start = directory + struct.calcsize(count_format)
    tags = []
    for entry in range(start, start + struct.unpack_from(count_format, data, directory)[0] * entry_size, entry_size):
        code, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, entry)
        if code not in _KEPT:
            continue
        size, at = count * SIZES.get(kind, 1), entry + entry_size - inside
        if size > inside:
            at = struct.unpack_from(order + ("Q" if big else "I"), data, at)[0]
        value = bytes(data[at : at + size])
        if len(value) < size:
            raise DamagedImage(f"the TIFF image is cut short: the value of tag {code} lies behind the end of the file")
        tags.append((code, kind, count, value))
    return tags


def excerpt(
    data: Data,
    tags: Sequence[tuple[int, int, int, bytes]],
    segments: Sequence[tuple[int, int]],
    part: Part,
    rows_per_strip: int | None,
) -> bytes:
    """A classic TIFF of the size of `part`, made of these segments (offset, count of bytes), row by row.

    rows_per_strip: None where the segments are tiles. Raises DamagedImage where one lies behind the file's end.
    """
    order = "<" if data[:2] == b"II" else ">"
    file = bytearray((b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 0))
    offsets = []
    for offset, count in segments:
        offsets.append(len(file))
        file += data[offset : offset + count]
        if count == 0 or len(file) - offsets[-1] < count:
            raise DamagedImage("the TIFF image is cut short: a strip or tile is missing, or ends behind the file's end")
        file += bytes(len(file) % 2)
    counts = [count for _, count in segments]
    is_tiled = rows_per_strip is None
    longs = [
        (_WIDTH, [part.width]),
        (_LENGTH, [part.height]),
        (_TILE_OFFSETS if is_tiled else _STRIP_OFFSETS, offsets),
        (_TILE_COUNTS if is_tiled else _STRIP_COUNTS, counts),
    ]
    if rows_per_strip is not None:
        longs.append((_ROWS_PER_STRIP, [rows_per_strip]))
    all_tags = [*tags, *((tag, _LONG, len(of), struct.pack(f"{order}{len(of)}I", *of)) for tag, of in longs)]
    entries = b""
    for code, kind, count, value in sorted(all_tags):
        if len(value) > 4:
            at = len(file)
            file += value + bytes(len(value) % 2)
            value = struct.pack(order + "I", at)
        entries += struct.pack(order + "HHI", code, kind, count) + value.ljust(4, b"\0")
    struct.pack_into(order + "I", file, 4, len(file))
    file += struct.pack(order + "H", len(all_tags)) + entries + bytes(4)
    return bytes(file)
