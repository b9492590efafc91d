"""JPEGs that lack their end marker, as some cameras write them, told from those that are cut short.

ITU-T T.81: markers in annex B, the scans of a progressive picture in annex G.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image, JpegImagePlugin

_END: Final = b"\xff\xd9"
_TAILS: Final = (bytes(range(1, 255)) * 8, bytes(range(254, 0, -1)) * 8, b"\x55\xaa" * 1016)
"""What is put behind the data; free of 0xFF, which begins markers, and of 0x00. More bits than the blocks of a row need
that are missing at a byte's cut; were more missing, the first of them would show it."""


def ended(data: bytes) -> bytes | None:
    """The JPEG with its end marker, which is put there if all that it lacks is that; None when more is missing.

    A complete picture does not depend on what follows its last bits: whatever is put there, the pixels are the same.
    Zeros and 0xFF with which the file may have been filled up are no data. Raises what Pillow raises on a broken file.
    """
    bare = data.rstrip(b"\0\xff")
    if bare.endswith(_END):
        return data
    if data[len(bare) : len(bare) + 2] == b"\xff\0":  # a byte 0xFF of the data, written as these two
        bare = data[: len(bare) + 2]
    end, missing = _scans(bare)
    if end is not None:
        return data
    return None if missing or not _is_complete(bare) else bare + _END


def is_cut(data: bytes, image: Image.Image) -> bool:
    """Whether pixels are missing before the end marker of `data`, of which `image` was decoded.

    The decoder leaves such blocks in the middle gray without a word, so only a picture that ends so is looked into.
    """
    width, height = image.size
    corner = np.asarray(image.crop((max(width - 8, 0), max(height - 8, 0), width, height)))
    if not (corner == 128).all() and not (corner == 127).all():  # inverted: CMYK
        return False
    end, _ = _scans(data)
    return end is not None and not _is_complete(data[:end])


def _is_complete(bare: bytes) -> bool:
    """Whether the pixels are the same whatever follows the data."""
    pixels = [np.asarray(JpegImagePlugin.JpegImageFile(BytesIO(bare + tail + _END))) for tail in _TAILS]
    return all(np.array_equal(pixels[0], other) for other in pixels[1:])


def _scans(data: bytes) -> tuple[int | None, bool]:
    """Where the end marker is, if there is one, and whether scans are missing before it or before the data's end.

    Of a sequential picture each component has one scan, of a progressive one as many as it takes until each of its 64
    coefficients has come with all its bits.
    """
    wanted = {(0, 0)}  # until the frame's header says what
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 2 <= len(data):
        marker = data[position + 1]
        if marker == 0xD9:
            return position, bool(wanted)
        if marker == 0xFF or marker == 0 or 0xD0 <= marker <= 0xD7:  # a fill byte, or inside a scan
            position += 1
            continue
        if position + 4 > len(data):
            break
        segment = data[position + 4 : position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")]
        position += 4 + len(segment)
        if position >= len(data):
            return None, True
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame's header
            wanted = {(component, index) for component in segment[6::3] for index in range(64)}
        elif marker == 0xDA:
            first, last, bits = segment[-3:]
            if bits & 0xF == 0:
                components = segment[1 : 1 + 2 * segment[0] : 2]
                wanted -= {(component, index) for component in components for index in range(first, last + 1)}
    return None, bool(wanted)
