"""GIF beyond Pillow: a first frame that is smaller than the screen, or larger, and palettes.

GIF89a: the screen in section 18, frames in 20, extensions from 23 on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
from PIL import GifImagePlugin, Image

from model.runtime.images.errors import UnsupportedVariant

_HEADER_LENGTH: Final = 13
_HAS_PALETTE: Final = 0x80
_EXTENSION, _FRAME, _END = b"!", b",", b";"


@dataclass(frozen=True, slots=True)
class FirstFrame:
    """Width and height of the screen, as large as the first frame needs, the colors of that frame's palette, and where
    its pixels end in the file.
    """

    width: int
    height: int
    colors: int
    end: int


def first_frame(data: bytes) -> FirstFrame:
    """What the headers say of it. Raises struct.error where they are cut short."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    colors = _colors(flags)
    position = _HEADER_LENGTH + 3 * colors
    while (kind := data[position : position + 1]) not in (_FRAME, _END, b""):
        position += 1
        if kind == _EXTENSION:
            position = _behind_blocks(data, position + 1)
    if kind == _FRAME:
        left, top, columns, rows, flags = struct.unpack_from("<HHHHB", data, position + 1)
        width, height = max(width, left + columns), max(height, top + rows)
        position = _behind_blocks(data, position + 11 + 3 * _colors(flags))
        colors = _colors(flags) or colors
    return FirstFrame(width, height, colors, position + 1)


def _behind_blocks(data: bytes, position: int) -> int:
    """Where the empty block is that ends those that begin at `position`."""
    while (length := data[position : position + 1]) not in (b"\0", b""):
        position += 1 + length[0]
    return position


def _colors(flags: int) -> int:
    return 2 << (flags & 7) if flags & _HAS_PALETTE else 0


def load(data: bytes) -> Image.Image:
    """The image of `data` with its pixels, white where its first frame does not reach: viewers show nothing
    there, and Pillow a color of the palette, unless one is transparent.

    Raises UnsupportedVariant where it has no palette, and whatever Pillow raises.
    """
    first = first_frame(data)
    colors = first.colors
    if not colors:
        raise UnsupportedVariant(
            "the GIF image cannot be read: it has no palette, and each viewer takes one of its own; send it as a PNG"
        )
    # Where pixels are missing, Pillow would go on in what follows the frame.
    image = GifImagePlugin.GifImageFile(BytesIO(data[: first.end] + _END))
    reach = image.tile[0].extents
    image.load()
    if image.mode == "L" and colors < 256:  # Pillow's shortcut for a palette of grays, which goes on beyond its end
        image.putpalette(np.repeat(np.arange(colors, dtype=np.uint8), 3).tobytes())
    if reach is None or reach == (0, 0, *image.size) or "transparency" in image.info:
        return image
    page = Image.new("RGB", image.size, "white")
    page.paste(image.crop(reach).convert("RGB"), reach)
    return page
