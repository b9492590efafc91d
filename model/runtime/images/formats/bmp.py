"""BMP beyond Pillow: palettes that look like a scale of grays, alpha that nobody set, packed rows with gaps.

Alpha that is zero throughout was never meant: programs leave the fourth byte empty, and browsers and GIMP show such a
picture opaque. Without a mask for alpha, whatever its header, a BMP has none.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Final

import numpy as np
from PIL import BmpImagePlugin, Image, ImagePalette

from model.runtime.images.errors import UnsupportedVariant

HEADER_BYTES: Final = 50
"""How much of a file tells how many bits its pixels have, and colors its palette."""
_RLE8, _RLE4, _BITFIELDS = 1, 2, 3
_END_OF_ROW, _JUMP = 0, 2
"""What follows a count of 0; 1 ends the picture, and larger numbers count pixels that are not repeated."""
_OS2_HEADER: Final = 12
_HAS_ALPHA_MASK: Final = 56
"""Bytes of the first header that has a mask for alpha: BITMAPV3INFOHEADER."""
_RAW_MODES: Final = {1: "P;1", 4: "P;4", 8: "P"}
MOST_RUNS: Final = 1 << 20
"""Of pixels that are alike, or not, in packed rows: each is unpacked by itself, and slowly."""


def load(image: BmpImagePlugin.BmpImageFile, data: bytes) -> Image.Image:
    """The opened image of `data` with its pixels, in mode RGBA only where alpha counts.

    Raises UnsupportedVariant for one with gaps, and whatever Pillow raises.
    """
    keep_palette(image, data)
    offset, args = image.tile[0].offset, image.tile[0].args
    if (compression := image.info["compression"]) in (_RLE8, _RLE4):
        _check_rows(data, offset, image.size, 2 if compression == _RLE4 else 1)
        if offset % 2:  # Pillow counts the words of two bytes, to which pixels are padded, from the file's begin
            image.fp = BytesIO(b"\0" + data)
            image.tile = [image.tile[0]._replace(offset=offset + 1)]
    image.load()
    header_size, bits = _layout(data)
    has_mask = header_size >= _HAS_ALPHA_MASK and struct.unpack_from("<I", data, 30)[0] == _BITFIELDS
    alpha_mask = struct.unpack_from("<I", data, 66)[0] if has_mask else 0
    if bits == 16 and alpha_mask:  # Pillow reads such colors and passes over their alpha
        assert isinstance(args, tuple)
        _, stride, direction = args
        packed = data[offset:].ljust(image.height * stride, b"\0")  # the last row's padding may be missing
        rows = np.frombuffer(packed, "<u2", image.height * stride // 2).reshape(image.height, stride // 2)
        seen = (rows[::direction, : image.width] & alpha_mask) != 0
        image.putalpha(Image.fromarray(seen))
    if image.mode == "RGBA" and not (alpha_mask and image.getchannel("A").getbbox()):
        return image.convert("RGB")
    return image


def keep_palette(image: BmpImagePlugin.BmpImageFile, data: bytes) -> None:
    """Undo Pillow's shortcut for palettes in which each entry is its own index, or which are black and white: it takes
    the indices for pixels of 8 bits, or of one, whatever they have.

    `image` is not loaded yet; `data` is its file, or the first `HEADER_BYTES` of it.
    """
    header_size, bits = _layout(data)
    if bits not in _RAW_MODES or image.mode == "P":
        return
    stated = struct.unpack_from("<I", data, 46)[0] if header_size > _OS2_HEADER else 0
    colors = stated or 2**bits
    if colors >= 2**bits and (image.mode, bits) in (("1", 1), ("L", 8)):
        return
    grays = bytes([0, 255] if image.mode == "1" else range(2**bits))[:colors]
    image._mode = "P"  # as Pillow's plugins themselves set it
    image.palette = ImagePalette.raw("RGB", np.repeat(np.frombuffer(grays, np.uint8), 3).tobytes())
    args = image.tile[0].args
    assert isinstance(args, tuple)
    image.tile = [image.tile[0]._replace(args=(_RAW_MODES[bits], *args[1:]))]


def _check_rows(data: bytes, offset: int, size: tuple[int, int], per_byte: int) -> None:
    """Raises UnsupportedVariant where packed rows leave pixels out, which each viewer fills in a way of its own, where
    pixels go on beyond their row, or where there are too many runs. Data that end early are left to Pillow.

    size: (width, height). per_byte: pixels in a byte of those that are not repeated.
    """
    width, height = size
    position, x, y = offset, 0, 0
    runs = 0
    wrong = "leave pixels out"
    while (y < height - 1 or x < width) and position + 2 <= len(data):
        count, code = data[position : position + 2]
        position += 2
        if (runs := runs + 1) > MOST_RUNS:
            raise UnsupportedVariant(
                f"the BMP image cannot be read: its packed rows have more than {MOST_RUNS} runs of pixels; save it "
                f"without compression"
            )
        if count:  # one byte repeated; what is beyond the row is padding
            x += count
        elif code == _END_OF_ROW and x >= width:
            x, y = 0, y + 1
        elif code > _JUMP and x + code <= width:
            x += code
            stored = -(-code // per_byte)
            position += stored + stored % 2
        else:
            if code > _JUMP:
                wrong = "go on beyond the picture's edge"
            raise UnsupportedVariant(
                f"the BMP image cannot be read: its packed rows {wrong}; save it without compression"
            )


def _layout(data: bytes) -> tuple[int, int]:
    """(bytes of the header behind the file's, bits of a pixel). OS/2's header of 12 bytes has the latter elsewhere."""
    (size,) = struct.unpack_from("<I", data, 14)
    (bits,) = struct.unpack_from("<H", data, 24 if size == _OS2_HEADER else 28)
    return size, bits
