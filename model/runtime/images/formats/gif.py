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

from model.runtime.images.errors import DamagedImage, UnsupportedVariant

_HEADER_LENGTH: Final = 13
_HAS_PALETTE: Final = 0x80
_EXTENSION, _FRAME, _END = b"!", b",", b";"
_CONTROL: Final = b"\xf9"
"""The extension that says which color is transparent."""
MOST_BLOCKS: Final = 1_000_000
"""Of pixels, or of all that comes before them; bytes between blocks count as such. A full one has 255 bytes."""


@dataclass(frozen=True, slots=True)
class FirstFrame:
    """Width and height of the screen, as large as the first frame needs, the colors of that frame's palette, and a file
    of that frame alone, without comments and what else does not change how it looks.
    """

    width: int
    height: int
    colors: int
    alone: bytes


def first_frame(data: bytes) -> FirstFrame:
    """What the headers say of it. Raises struct.error where they are cut short, and DamagedImage for more blocks than
    anybody could have meant.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    colors = _colors(flags)
    position = _HEADER_LENGTH + 3 * colors
    kept = [data[:position]]
    left_over = MOST_BLOCKS
    while (kind := data[position : position + 1]) not in (_FRAME, _END, b""):
        start, position = position, position + 1
        left_over -= 1
        if kind == _EXTENSION:
            position, left_over = _behind_blocks(data, position + 1, left_over)
            if data[start + 1 : start + 2] == _CONTROL:
                kept.append(data[start:position])
        if left_over < 0:
            raise _too_many_blocks()
    if kind == _FRAME:
        left, top, columns, rows, flags = struct.unpack_from("<HHHHB", data, position + 1)
        width, height = max(width, left + columns), max(height, top + rows)
        start = position
        position, _ = _behind_blocks(data, position + 11 + 3 * _colors(flags), MOST_BLOCKS)
        colors = _colors(flags) or colors
        kept.append(data[start:position])
    return FirstFrame(width, height, colors, b"".join([*kept, _END]))


def _behind_blocks(data: bytes, position: int, most: int) -> tuple[int, int]:
    """The place behind the empty block that ends those from `position` on, and how many more of `most` there may be."""
    while (length := data[position : position + 1]) not in (b"\0", b""):
        position += 1 + length[0]
        most -= 1
        if most < 0:
            raise _too_many_blocks()
    return position + 1, most


def _too_many_blocks() -> DamagedImage:
    return DamagedImage(f"the GIF image is damaged: it has more than {MOST_BLOCKS} blocks")


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
    image = GifImagePlugin.GifImageFile(BytesIO(first.alone))
    reach = image.tile[0].extents
    image.load()
    if image.mode == "L" and colors < 256:  # Pillow's shortcut for a palette of grays, which goes on beyond its end
        image.putpalette(np.repeat(np.arange(colors, dtype=np.uint8), 3).tobytes())
    if reach is None or reach == (0, 0, *image.size) or "transparency" in image.info:
        return image
    page = Image.new("RGB", image.size, "white")
    page.paste(image.crop(reach).convert("RGB"), reach)
    return page
