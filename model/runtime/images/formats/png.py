"""PNG beyond Pillow: which chunks make the picture, all bits of 16-bit colors, transparent colors of any depth.

PNG specification, third edition: chunks in section 5, transparent colors in 11.3.1.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import PngImagePlugin

from model.runtime.images.errors import DamagedImage, UnsupportedVariant
from model.runtime.images.picture import Picture

_SIGNATURE_LENGTH: Final = 8
_CRITICAL: Final = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_APPLES: Final = b"CgBI"
_USED: Final = (b"tRNS", b"eXIf")
"""Ancillary chunks that change how the picture looks. Texts, profiles and previews do not."""
_ANIMATION: Final = (b"acTL", b"fcTL")
"""That there are frames, and that a frame follows: section 11.3.7. They tell whether the picture is the first frame."""

_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_DEPTHS: Final = {
    _GRAY: (1, 2, 4, 8, 16),
    _RGB: (8, 16),
    _PALETTE: (1, 2, 4, 8),
    _GRAY_ALPHA: (8, 16),
    _RGBA: (8, 16),
}
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""(x, y) of the first pixel and steps (x, y) of each pass of an interlaced picture: section 8.1."""
_AT_ONCE: Final = 2**20
"""Bytes unpacked at a time."""
MOST_CHUNKS: Final = 200_000
"""Each costs its readers time, whatever it holds; programs write pixels in chunks of some thousand bytes."""


def picture_chunks(data: bytes) -> bytes:
    """The PNG without the chunks that viewers pass over: unused ones, and ancillary ones with a wrong checksum or in a
    wrong place.

    Pillow would unpack texts and profiles, refuse those over 1 MB, check none of the pixels' checksums, and pass over
    critical chunks that it does not know. What comes after a chunk that is none or is cut short is left to it.

    Raises DamagedImage when a critical chunk (header, palette, pixels) has a wrong checksum, is unknown (without it the
    pixels mean something else), or stands where the specification has none, and UnsupportedVariant for an animation
    whose first frame is another picture.
    """
    view = memoryview(data)
    kept: list[memoryview] = [view[:_SIGNATURE_LENGTH]]
    position = _SIGNATURE_LENGTH
    seen: set[bytes] = set()
    chunks = 0
    while position + 12 <= len(data):
        if (chunks := chunks + 1) > MOST_CHUNKS:
            raise DamagedImage(f"the PNG image is damaged: it has more than {MOST_CHUNKS} chunks")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data) or not name.isalpha():
            break
        if not seen and name not in (b"IHDR", _APPLES):
            raise DamagedImage("the PNG image is damaged: its header does not come first")
        critical = not name[0] & 0x20
        intact = True
        if critical or name in _USED or name in _ANIMATION:
            intact = zlib.crc32(view[position + 4 : end - 4]) == int.from_bytes(view[end - 4 : end], "big")
            if critical and not intact:
                raise DamagedImage(
                    f"the PNG image is damaged: the {name.decode('ascii', 'replace')} chunk at byte {position} has a "
                    f"wrong checksum"
                )
            if critical:
                _check_critical(name, data, length, seen)
            if critical or (intact and _is_heeded(name, data, seen)):
                kept.append(view[position:end])
        if intact:
            seen.add(name)
        position = end
        if name == b"IEND":
            return b"".join(kept)
    return b"".join([*kept, view[position:]])


def _check_critical(name: bytes, data: bytes, length: int, seen: Collection[bytes]) -> None:
    """Raises DamagedImage for a critical chunk that no reader may pass over, or that makes the picture ambiguous, and
    UnsupportedVariant for pixels that are no frame of the animation.

    `length` is that of what it holds, `seen` are the names of the chunks before.
    """
    if name == _APPLES:
        raise DamagedImage(
            "this is a PNG as Apple's tools write it for iOS (chunk CgBI), whose pixels are stored in a way of their "
            "own; convert it to a plain PNG, as with: xcrun pngcrush -revert-iphone-optimizations IN OUT"
        )
    if name not in _CRITICAL:
        raise DamagedImage(
            f"the PNG image has a critical chunk {name.decode()} that is unknown here, without which its pixels cannot "
            f"be understood; save it as a plain PNG"
        )
    if name == b"IDAT" and b"acTL" in seen and b"fcTL" not in seen:
        raise UnsupportedVariant(
            "the PNG image cannot be read: it is an animation (APNG), whose first frame viewers show instead of the "
            "picture that other programs read; send one of them as a plain PNG"
        )
    wrong = ""
    if name == b"IHDR":
        if seen:
            wrong = "it has a second header"
        elif length != 13 or 0 in struct.unpack_from(">II", data, 16):
            wrong = "its header is not as long as it should be, or it has no pixels"
        elif data[24] not in _DEPTHS.get(data[25], ()) or any(data[26:28]) or data[28] > 1:
            wrong = "its header names a depth, kind of colors, compression, filter or interlacing that PNG has not"
    elif name == b"PLTE":
        if not {b"PLTE", b"IDAT"}.isdisjoint(seen):
            wrong = "a palette behind the pixels, or a second one"
        elif length % 3:
            wrong = "its palette ends within a color"
    elif name == b"IDAT" and data[25] == _PALETTE and b"PLTE" not in seen:
        wrong = "it has no palette before its pixels"
    if wrong:
        raise DamagedImage(f"the PNG image is damaged: {wrong}")


def _is_heeded(name: bytes, data: bytes, seen: Collection[bytes]) -> bool:
    """Whether an ancillary chunk is used, the first of its name, and in its place: tRNS behind a palette that it is
    for, before the pixels."""
    if name == b"tRNS" and (b"IDAT" in seen or (data[25] == _PALETTE and b"PLTE" not in seen)):
        return False
    return name in _USED and name not in seen


def lacks_rows(image: PngImagePlugin.PngImageFile, data: bytes) -> bool:
    """Whether the pixels of `data`, of which `image` was decoded, end before the last row.

    The decoder leaves such rows black without a word, so only a picture that ends so, and an interlaced one, whose last
    row may come early, is unpacked once more and counted.
    """
    width, height = image.size
    interlaced = data[28] == 1
    if not interlaced and np.asarray(image.crop((0, height - 1, width, height))).any():
        return False
    bits = data[24] * {_GRAY: 1, _RGB: 3, _PALETTE: 1, _GRAY_ALPHA: 2, _RGBA: 4}[data[25]]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes)
    left = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)
    inflater = zlib.decompressobj()
    for packed in _contents(data, b"IDAT"):
        while packed and left > 0:
            left -= len(inflater.decompress(packed, _AT_ONCE))
            packed = inflater.unconsumed_tail
    # Not where all rows are there: what may follow them would be unpacked whole.
    return left > 0 and left > len(inflater.flush())


def lacks_colors(image: PngImagePlugin.PngImageFile, data: bytes) -> bool:
    """Whether the loaded image of `data` has indices beyond its palette, which the decoder makes black."""
    if data[25] != _PALETTE:
        return False
    colors = len(next(_contents(data, b"PLTE"))) // 3
    return colors < 2 ** data[24] and int(np.asarray(image).max()) >= colors


def _contents(data: bytes, wanted: bytes) -> Iterator[bytes]:
    """What the chunks of that name hold."""
    position = _SIGNATURE_LENGTH
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        if name == wanted:
            yield data[position + 8 : position + 8 + length]
        position += 12 + length


def to_picture(image: PngImagePlugin.PngImageFile, data: bytes) -> Picture | None:
    """The picture, as stored, of a loaded PNG of `data`; None for one that Pillow's own conversion serves: gray, 8-bit
    colors with or without alpha, and palettes."""
    depth, color = data[24], data[25]
    key = image.info.get("transparency")
    if depth == 16 and color != _GRAY:
        return _deep(image, data, color)
    if color == _GRAY:
        if not isinstance(key, int):
            return None
        values = np.asarray(image) if depth == 16 else np.asarray(image.convert("L"))
        # Only the lowest bits of the key count, and Pillow has spread samples of less than 8 bits over 0..255.
        key &= 2**depth - 1
        see_through = values == (key * 255 // (2**depth - 1) if depth < 8 else key)
        return Picture(values, transparent=see_through) if depth == 16 else Picture(_whitened(values, see_through))
    if color == _RGB and isinstance(key, tuple):
        values = np.asarray(image)
        return Picture(_whitened(values, (values == np.array(key) % 256).all(axis=2)))
    return None


def _whitened(values: NDArray[np.uint8], where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    values = values.copy()
    values[where] = 255
    return values


def _deep(image: PngImagePlugin.PngImageFile, data: bytes, color: int) -> Picture:
    """16-bit gray with alpha, RGB and RGBA: uint16, laid over white where it is half transparent."""
    if color == _GRAY_ALPHA:
        # Four bytes a pixel, as 8-bit RGBA: the header of the latter lets Pillow's decoder hand out all four.
        header = data[12:24] + bytes([8, _RGBA]) + data[26:29]
        patched = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
        samples = np.asarray(PngImagePlugin.PngImageFile(BytesIO(patched))).view(">u2").astype(np.uint16)
    else:
        # Pillow keeps the high bytes; taken for little-endian samples, the low bytes are the high ones.
        again = PngImagePlugin.PngImageFile(BytesIO(data))
        again.tile = [tile._replace(args=f"{again.mode};16L") for tile in again.tile]
        samples = np.asarray(image).astype(np.uint16)
        samples *= 256
        samples += np.asarray(again)
    key = image.info.get("transparency")
    if color == _RGB:
        transparent = (samples == np.array(key)).all(axis=2) if isinstance(key, tuple) else None
        return Picture(samples, transparent=transparent)
    alpha, colors = samples[..., -1:], samples[..., :-1]
    values = colors if color == _RGBA else colors[..., 0]
    if (alpha == 65535).all():
        return Picture(np.ascontiguousarray(values))
    opacity = alpha.astype(np.float32) / 65535
    over_white = np.rint(colors * opacity + 65535 * (1 - opacity)).astype(np.uint16)
    transparent = alpha[..., 0] == 0
    return Picture(over_white if color == _RGBA else over_white[..., 0], transparent=transparent)
