"""JPEG beyond Pillow: decoded at reduced size, and what is cut short told from what only lacks its end marker, as some
cameras write it.

ITU-T T.81: markers in annex B, the scans of a progressive picture in annex G.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from model.runtime.images.errors import DamagedImage
from model.runtime.images.picture import Size

_END: Final = b"\xff\xd9"
_RESTARTS: Final = tuple(bytes([0xFF, marker]) for marker in range(0xD0, 0xD8))
_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""What is neither a stuffed byte nor a restart. A byte 0xFF before it fills up."""
_END_OF_DATA: Final = {True: _MARKER, False: re.compile(rb"\xff[^\x00\xff]")}
"""What ends a scan's data, by whether restarts may lie in it."""
_IN_HEADER: Final = re.compile(rb"\xff[^\x00\xff]")
"""What stands between segments is passed over up to it, as every decoder does."""
_FILL: Final = re.compile(rb"\xff+")
_BARE: Final = (0x01, *range(0xD0, 0xDA))
"""Markers without a segment."""
_EXIF: Final = b"Exif\0\0"
MOST_SEGMENTS: Final = 10_000
MOST_SCANS: Final = 100
"""As many as libjpeg's own tools write. Each goes over all of the picture, however few bytes it has."""
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


def plain(data: bytes) -> bytes:
    """The JPEG without what does not change its pixels: profiles, texts, previews, EXIF but for its first segment, and
    what stands between segments.

    Raises DamagedImage where nobody could have meant so many segments or scans.
    """
    kept = [data[:2]]
    position = 2
    segments = 0
    has_exif = False
    while (found := _IN_HEADER.search(data, position)) is not None:
        start, at = found.span()
        marker = data[at - 1]
        if marker == 0xDA:
            _check_scans(data, start)
            kept.append(data[start:])
            break
        if marker == 0xD9:  # without pixels
            kept.append(_END)
            break
        if (segments := segments + 1) > MOST_SEGMENTS:
            raise _too_many("segments", MOST_SEGMENTS)
        position = at if marker in _BARE else at + max(2, int.from_bytes(data[at : at + 2], "big"))
        is_for_others = marker == 0xFE or (0xE1 <= marker <= 0xEF and marker != 0xEE)
        is_exif = marker == 0xE1 and data.startswith(_EXIF, at + 2) and not has_exif
        has_exif = has_exif or is_exif
        if is_exif or not is_for_others:
            kept.append(data[start:position])
    return b"".join(kept)


def _check_scans(data: bytes, position: int) -> None:
    """Raises DamagedImage for too many segments or scans from that position on."""
    segments = scans = 0
    while (found := _MARKER.search(data, position)) is not None and (marker := data[found.end() - 1]) != 0xD9:
        segments += 1
        scans += marker == 0xDA
        if segments > MOST_SEGMENTS:
            raise _too_many("segments", MOST_SEGMENTS)
        if scans > MOST_SCANS:
            raise _too_many("scans", MOST_SCANS)
        at = found.end()
        position = at + max(2, int.from_bytes(data[at : at + 2], "big"))


def _too_many(what: str, most: int) -> DamagedImage:
    return DamagedImage(f"the JPEG image is damaged: it has more than {most} {what}")


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
    while (found := _IN_HEADER.search(data, position)) is not None:
        at = found.end()
        marker = data[at - 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker
        if marker in (0xD9, 0xDA):
            return None
        position = at if marker in _BARE else at + max(2, int.from_bytes(data[at : at + 2], "big"))
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
        if marker == 0xFF and (fill := _FILL.match(data, position)) is not None:
            position = fill.end() - 1
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
    found = _END_OF_DATA[has_restarts].search(data, position)
    return len(data) if found is None else found.start()


def lacks_restarts(data: bytes) -> bool:
    """Whether a scan has fewer restart markers than its blocks need (DRI, T.81 B.2.4.4): whole intervals are missing,
    over which the decoder goes on without a word.
    """
    interval, size, sampling = 0, (0, 0), {0: (1, 1)}
    position = 2
    while (found := _MARKER.search(data, position)) is not None and found.start() + 4 <= len(data):
        position, marker = found.start(), data[found.end() - 1]
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
            end = _end_of_scan(data, position, has_restarts=True)
            if sum(data.count(restart, position, end) for restart in _RESTARTS) < -(-units // interval) - 1:
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

    def decoded(tail: bytes) -> NDArray[Any]:
        return np.asarray(JpegImagePlugin.JpegImageFile(BytesIO(bare + tail + _END)))

    first = decoded(_TAILS[0])
    return all(np.array_equal(first, decoded(tail)) for tail in _TAILS[1:])


def _scans(data: bytes) -> tuple[int | None, bool]:
    """Where the end marker is, if there is one, and whether scans are missing before it or before the data's end.

    Of a sequential picture each component has one scan, of a progressive one as many as it takes until each of its 64
    coefficients has come with all its bits.
    """
    wanted = {(0, 0)}  # until the frame's header says what
    position = 2
    while (found := _MARKER.search(data, position)) is not None:
        position, marker = found.start(), data[found.end() - 1]
        if marker == 0xD9:
            return position, bool(wanted)
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
