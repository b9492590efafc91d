"""JPEG beyond Pillow: decoded at reduced size, and what is cut short told from what only lacks its end marker, as some
cameras write it.

ITU-T T.81: markers in annex B, the scans of a progressive picture in annex G.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image, JpegImagePlugin

from model.runtime.images.picture import Size

_END: Final = b"\xff\xd9"
_RESTART: Final = re.compile(rb"\xff[\xd0-\xd7]")
_SCAN: Final = re.compile(rb"(?:[^\xff]|\xff[\x00\xd0-\xd7\xff])*", re.DOTALL)
"""A scan's data: up to a marker that is neither a stuffed byte nor a restart."""
_SEGMENTS: Final = frozenset([0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE])
"""Markers of what may follow a scan: tables, another scan, its number of lines, data of applications, comments."""
_TAILS: Final = (bytes(range(1, 255)) * 8, bytes(range(254, 0, -1)) * 8, b"\x55\xaa" * 1016)
"""What is put behind the data; free of 0xFF, which begins markers, and of 0x00. More bits than the blocks of a row need
that are missing at a byte's cut; were more missing, the first of them would show it."""
_DIVISORS: Final = (8, 4, 2)
"""By what libjpeg divides both sides, making a block's pixels of its lowest frequencies alone."""
_REDUCIBLE: Final = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive frames. What is lossless has no frequencies, and arithmetic coding is rare."""
MARGIN: Final = 2
"""What is decoded has along each side at least so many times the pixels that the network sees."""


def divisor(data: bytes, size: Size, target: Size) -> int:
    """By what the sides of a JPEG of `size` are divided in decoding where it is then resized to `target`: 1, 2, 4 or 8.

    Sizes as stored. 1 for what is no JPEG.
    """
    if _frame_marker(data) in _REDUCIBLE:
        for by in _DIVISORS:
            if all(side >= MARGIN * by * wanted for side, wanted in zip(size, target, strict=True)):
                return by
    return 1


def load(image: JpegImagePlugin.JpegImageFile, data: bytes, by: int = 1) -> Image.Image:
    """The opened image of `data` with its pixels, each side divided by `by` and rounded up.

    Raises OSError where the data are cut short, at any size, and whatever Pillow raises.
    """
    complete = ended(data)
    if complete is None:
        raise OSError("image file is truncated")
    if complete is not data:
        image = JpegImagePlugin.JpegImageFile(BytesIO(complete))
    width, height = image.size
    if by > 1:
        image.draft(None, (width // by, height // by))
    image.load()
    last = image.crop(((width - 1) // 8 * 8 // by, (height - 1) // 8 * 8 // by, *image.size))
    if is_cut(data, last) or lacks_restarts(data):
        raise OSError("image file is truncated: blocks are missing before its end marker")
    if has_stray_marker(data):
        raise OSError("broken data stream: a marker in the middle of the pixels")
    return image


def _frame_marker(data: bytes) -> int | None:
    """The marker of the frame's header, which says how the picture is coded; None where there is none."""
    if not data.startswith(b"\xff\xd8"):
        return None
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


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


def is_cut(data: bytes, last: Image.Image) -> bool:
    """Whether pixels are missing before the end marker of `data`, of whose picture `last` is the last block, or what
    there is of it.

    The decoder leaves such blocks in the middle gray without a word, so only a picture that ends so is looked into.
    """
    if last.mode == "RGB":
        last = last.convert("L")  # what colors there are come from the blocks beside it
    if (np.abs(np.asarray(last) - 127.5) > 1.5).any():  # CMYK is inverted
        return False
    end, _ = _scans(data)
    return end is not None and not _is_complete(data[:end])


def has_stray_marker(data: bytes) -> bool:
    """Whether a scan's data are broken off by a marker that is not meant to be there: the decoder goes no further, and
    leaves the rest of the picture, or of its details, away without a word.

    Behind a scan come segments, one right behind the other, up to the next scan or the end (T.81 B.2.1). Restarts that
    were not announced (DRI) are such markers, too.
    """
    interval, position = 0, 2
    in_header = True
    while 0 <= (position := data.find(b"\xff", position)) <= len(data) - 4:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xD9:
            return False
        if not (marker in _SEGMENTS or (in_header and marker not in (0, 1, *range(0xD0, 0xD9)))):
            return not in_header
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDD:
            interval = int.from_bytes(data[position + 4 : position + 6], "big")
        elif marker == 0xDA:
            in_header = False
            end = _end_of_scan(data, end, has_restarts=interval > 0)
        elif not in_header and end != len(data) and data[end : end + 1] != b"\xff":
            return True
        position = end
    return False


def _end_of_scan(data: bytes, position: int, *, has_restarts: bool) -> int:
    """Where the first marker is behind that position; the data's length if there is none."""
    while 0 <= (position := data.find(b"\xff", position)) < len(data) - 1:
        following = data[position + 1]
        if following not in (0, 0xFF) and not (has_restarts and 0xD0 <= following <= 0xD7):
            return position
        position += 1
    return len(data)


def lacks_restarts(data: bytes) -> bool:
    """Whether a scan has fewer restart markers than its blocks need (DRI, T.81 B.2.4.4): whole intervals are missing,
    over which the decoder goes on without a word.
    """
    interval, size, sampling = 0, (0, 0), {0: (1, 1)}
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 4 <= len(data):
        marker = data[position + 1]
        if marker in (0, 0xFF) or 0xD0 <= marker <= 0xD7:
            position += 1
            continue
        if marker == 0xD9:
            break
        segment = data[position + 4 : position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")]
        position += 4 + len(segment)
        if marker == 0xDD:
            interval = int.from_bytes(segment[:2], "big")
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = int.from_bytes(segment[3:5], "big"), int.from_bytes(segment[1:3], "big")
            factors = ((segment[at], segment[at + 1]) for at in range(6, len(segment) - 2, 3))
            sampling = {component: (both >> 4, both & 15) for component, both in factors}
        elif marker == 0xDA and interval and all(size):
            units = _units(size, sampling, segment[1 : 1 + 2 * segment[0] : 2])
            scan = _SCAN.match(data, position)
            if scan is not None and len(_RESTART.findall(scan[0])) < -(-units // interval) - 1:
                return True
    return False


def _units(size: tuple[int, int], sampling: Mapping[int, tuple[int, int]], components: bytes) -> int:
    """MCUs of a scan of a picture of `size` (width, height): T.81 A.2. sampling: (horizontal, vertical) factors."""
    most = max(own[0] for own in sampling.values()), max(own[1] for own in sampling.values())
    # Alone, a component's unit is one of its own blocks of 8 pixels; together, as many of each as their factors say.
    sides, lengths = (8 * most[0], 8 * most[1]), size
    if len(components) == 1:
        own = sampling[components[0]]
        sides, lengths = (8, 8), (-(-size[0] * own[0] // most[0]), -(-size[1] * own[1] // most[1]))
    return -(-lengths[0] // sides[0]) * -(-lengths[1] // sides[1])


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
