"""JPEG 2000 beyond Pillow: gray values as stored, of any depth up to 16 bits, signed or not.

Pillow moves values that are not as deep as its modes into the upper bits, and negative ones above zero. ITU-T T.800:
the codestream's header (SIZ) in A.5.1, the boxes of a file in annex I.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from PIL import Image

from model.runtime.images.errors import UnsupportedVariant
from model.runtime.images.picture import Picture

_START: Final = b"\xff\x4f\xff\x51"
"""Of a codestream, with the marker of its header."""
_TILE_PART: Final = b"\xff\x90\0\x0a"
"""The marker that begins one, with its segment's length."""
_SIGNED: Final = 0x80
_OPACITY: Final = 1
_DEEPEST: Final = 16
MOST_BOXES: Final = 10_000
MOST_PARTS: Final = 200_000
"""Of tiles."""
_FEW_TILES: Final = 1024
_LEAST_TILE: Final = 32 * 32
"""Pixels of a tile where there are many: each takes OpenJPEG some kilobytes, whatever its size."""


def prepare(image: Image.Image, data: bytes) -> None:
    """Makes the opened image of `data` fit to be loaded. Raises UnsupportedVariant where it would be other pixels, and
    ValueError where some are not in the file: the decoder would make them up.
    """
    components = _components(data)
    if missing := _missing_tiles(data):
        raise ValueError(f"{missing} of its tiles are not in the file")
    tiles, pixels = _tiles(data, _codestream(data))
    if tiles > _FEW_TILES and pixels < _LEAST_TILE:
        raise UnsupportedVariant(
            f"the JPEG 2000 image cannot be read: it is in {tiles} tiles of {pixels} pixels; save it in larger ones"
        )
    shallowest, deepest = min(map(_bits, components)), max(map(_bits, components))
    why = ""
    if len(components) > 1 and any(component & _SIGNED for component in components):
        why = "its colors have negative values"
    elif deepest > _DEEPEST:
        why = f"its values have {deepest} bits, and at most {_DEEPEST} can be read"
    elif len(components) > 1 and shallowest < 8:  # Pillow fills up with zeros: white would be gray
        why = f"it has several components, one of {shallowest} bits, and at least 8 can be read"
    elif image.mode in ("P", "PA") and _bits(components[0]) != 8:
        why = f"its palette is for values of {_bits(components[0])} bits, and only 8 can be read"
    elif image.mode in ("LA", "RGBA", "PA") and not _ends_in_opacity(data, len(components)):
        why = f"it does not say that the last of its {len(components)} components is opacity"
    if why:
        raise UnsupportedVariant(f"the JPEG 2000 image cannot be read: {why}; send it as a TIFF or PNG")
    if image.mode == "L" and deepest > 8:
        image._mode = "I;16"  # Pillow takes 9 bits for 8


def check(data: bytes) -> None:
    """For Pillow reads the boxes of a header one by one. Raises ValueError where there are too many."""
    _codestream(data)


def _tiles(data: bytes, start: int) -> tuple[int, int]:
    """How many tiles the header announces (B.3), and how many pixels each has."""
    width, height, _, _, tile_width, tile_height, left, top = struct.unpack_from(">8I", data, start + 8)
    if not tile_width or not tile_height:
        raise ValueError("its tiles have no pixels")
    return -(-(width - left) // tile_width) * -(-(height - top) // tile_height), tile_width * tile_height


def to_picture(image: Image.Image, data: bytes) -> Picture | None:
    """The picture of a loaded one of `data`, which is prepared; None for colors, which Pillow's conversion serves."""
    if image.mode not in ("L", "I;16"):
        return None
    component = _components(data)[0]
    bits = _bits(component)
    values = np.asarray(image)
    values = values >> (8 * values.itemsize - bits)
    if component & _SIGNED:
        return Picture((values.astype(np.int32) - 2 ** (bits - 1)).astype(np.int8 if bits <= 8 else np.int16))
    if bits <= 8:
        return Picture((values.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8))
    return Picture(values.astype(np.uint16, copy=False), significant_bits=bits if bits < _DEEPEST else None)


def _components(data: bytes) -> list[int]:
    """Ssiz of each: bits less one, and `_SIGNED`. Raises ValueError or IndexError where there is no header."""
    start = _codestream(data)
    if not data.startswith(_START, start):
        raise ValueError("it has no codestream")
    count = int.from_bytes(data[start + 40 : start + 42], "big")
    if not count:
        raise ValueError("its codestream has no components")
    return [data[start + 42 + 3 * index] for index in range(count)]


def _missing_tiles(data: bytes) -> int:
    """How many of the tiles that its header announces have no part in the codestream (SOT, A.4.2)."""
    start = _codestream(data)
    tiles, _ = _tiles(data, start)
    found: set[int] = set()
    parts = 0
    position = data.find(_TILE_PART, start)
    while position >= 0 and data.startswith(_TILE_PART, position) and position + 12 <= len(data):
        if (parts := parts + 1) > MOST_PARTS:
            raise ValueError(f"it has more than {MOST_PARTS} parts of tiles")
        index, length = struct.unpack_from(">HI", data, position + 4)
        found.add(index)
        if not length:  # up to the end
            break
        position += length
    return tiles - sum(index < tiles for index in found)


def _ends_in_opacity(data: bytes, components: int) -> bool:
    """Whether the box of channel definitions says so, of colors that are not multiplied by it. A bare codestream has no
    boxes."""
    at = data.find(b"cdef", 0, _codestream(data))
    if at < 0:
        return False
    count = int.from_bytes(data[at + 4 : at + 6], "big")
    channels = struct.iter_unpack(">HHH", data[at + 6 : at + 6 + 6 * count])
    return any((channel, kind) == (components - 1, _OPACITY) for channel, kind, _ in channels)


def _bits(component: int) -> int:
    return (component & ~_SIGNED) + 1


def _codestream(data: bytes) -> int:
    """Where it begins: at once, or in the first jp2c box; the data's end if there is none.

    Raises ValueError for too many boxes before it.
    """
    if data.startswith(_START):
        return 0
    position = boxes = 0
    while position + 8 <= len(data):
        if (boxes := boxes + 1) > MOST_BOXES:
            raise ValueError(f"it has more than {MOST_BOXES} boxes")
        length, name, head = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        if name == b"jp2c":
            return position + head
        if length < head:  # 0: up to the end
            break
        position += length
    return len(data)
