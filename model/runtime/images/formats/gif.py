"""GIF beyond Pillow: a first frame that is smaller than the screen, or larger.

GIF89a: the screen in section 18, frames in 20, extensions from 23 on.
"""

from __future__ import annotations

import struct
from typing import Final

from PIL import GifImagePlugin, Image

_HEADER_LENGTH: Final = 13
_HAS_PALETTE: Final = 0x80
_EXTENSION, _FRAME, _END = b"!", b",", b";"


def size(data: bytes) -> tuple[int, int]:
    """(width, height) of the screen, as large as its first frame needs. Raises struct.error where it is cut short."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = _HEADER_LENGTH + (3 << (flags & 7) + 1 if flags & _HAS_PALETTE else 0)
    while (kind := data[position : position + 1]) not in (_FRAME, _END, b""):
        position += 1
        if kind == _EXTENSION:
            position += 1
            while (length := data[position : position + 1]) not in (b"\0", b""):
                position += 1 + length[0]
    if kind == _FRAME:
        left, top, columns, rows = struct.unpack_from("<HHHH", data, position + 1)
        width, height = max(width, left + columns), max(height, top + rows)
    return width, height


def load(image: GifImagePlugin.GifImageFile) -> Image.Image:
    """The opened image with its pixels, white where its first frame does not reach: viewers show nothing there, and
    Pillow a color of the palette, unless one is transparent."""
    reach = image.tile[0].extents
    image.load()
    if reach is None or reach == (0, 0, *image.size) or "transparency" in image.info:
        return image
    page = Image.new("RGB", image.size, "white")
    page.paste(image.crop(reach).convert("RGB"), reach)
    return page
