"""WebP beyond Pillow: its size before anything is allocated, and alpha that its header denies.

RFC 9649, sections 2.5 to 2.7.
"""

from __future__ import annotations

from typing import Final

from model.runtime.images.errors import DamagedImage, UnsupportedVariant

_FLAGS_AT: Final = 20
_ANIMATION, _ALPHA = 0x02, 0x10
_FRAME_HEADER: Final = 16
_LOSSLESS_ALPHA: Final = 0x10
"""Bit of the fifth byte, as counted from the signature's."""
MOST_CHUNKS: Final = 100_000


def size(data: bytes) -> tuple[int, int]:
    """Canvas (width, height) from the first chunk; (0, 0) when there is none."""
    chunk, head = data[12:16], data[20:30]
    if len(head) == 10 and chunk == b"VP8X":
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if len(head) == 10 and chunk == b"VP8 ":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    if len(head) >= 5 and chunk == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return 0, 0


def with_alpha(data: bytes) -> bytes:
    """The file, of an animation with the flag for alpha, without which Pillow makes black what its first frame does not
    cover. Viewers show nothing there, whatever the flag.

    Raises UnsupportedVariant where the flag is missing and the picture, or the first frame, has alpha all the same, and
    DamagedImage where nobody could have meant so many chunks.
    """
    flags = data[_FLAGS_AT : _FLAGS_AT + 1]
    if data[12:16] != b"VP8X" or not flags or flags[0] & _ALPHA:
        return data
    animated = bool(flags[0] & _ANIMATION)
    if _has_alpha(data, animated):
        raise UnsupportedVariant(
            "the WebP image cannot be read: its header says that nothing is transparent, and its pixels are, which "
            "viewers show each in a way of its own; save it anew, or send it as a PNG"
        )
    return data[:_FLAGS_AT] + bytes([flags[0] | _ALPHA]) + data[_FLAGS_AT + 1 :] if animated else data


def _has_alpha(data: bytes, animated: bool) -> bool:
    """Of the picture or the first frame: lossless with alpha or, of an animation, lossy with alpha beside it. Beside a
    picture that is none everybody passes over it."""
    position, chunks = 12, 0
    while position + 8 <= len(data):
        if (chunks := chunks + 1) > MOST_CHUNKS:
            raise DamagedImage(f"the WebP image is damaged: it has more than {MOST_CHUNKS} chunks")
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8
        if name == b"VP8L":
            return len(data) > position + 4 and bool(data[position + 4] & _LOSSLESS_ALPHA)
        if name == b"VP8 " or (name == b"ALPH" and animated):
            return name == b"ALPH"
        position += _FRAME_HEADER if name == b"ANMF" else length + length % 2
    return False
