"""GIFs whose first frame is smaller than their screen, or larger: what it leaves uncovered is white. Palettes that are
too short."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from model.runtime.images.decode import decode_image
from model.runtime.images.errors import DamagedImage, UnsupportedVariant
from model.runtime.images.reading import probe
from tests.model.runtime.images.pictures import encode, picture

COLORED = picture(12, 10).quantize(16)
GRAY = Image.fromarray(np.arange(120, dtype=np.uint8).reshape(12, 10))
COMMENT = b"!\xfe\5,\xff\xff\xff\xff\0"
"""Holds what a frame begins with."""


def gif(frame: Image.Image, at: tuple[int, int], screen: tuple[int, int], *, before: bytes = b"") -> bytes:
    """A frame at (left, top) of a screen (width, height)."""
    data = bytearray(encode(frame, "GIF"))
    data[6:10] = struct.pack("<HH", *screen)
    start = 13 + (3 << (data[10] & 7) + 1)
    assert data[start : start + 1] == b","
    data[start + 1 : start + 5] = struct.pack("<HH", *at)
    return bytes(data[:start] + before + data[start:])


def of_8_bits(indices: bytes, *, colors: bytes = b"", own: bytes = b"", transparent: int | None = None) -> bytes:
    """Pixels of 8 bits in a row, a palette of 4 colors for all frames or for the first, or none."""
    codes = [256, *indices, 257]  # 9 bits each: so few that no code grows
    bits = sum(code << 9 * index for index, code in enumerate(codes))
    packed = bits.to_bytes(-(-9 * len(codes) // 8), "little")
    control = b"" if transparent is None else b"!\xf9\4\1\0\0" + bytes([transparent]) + b"\0"
    screen = b"GIF89a" + struct.pack("<HHBBB", len(indices), 1, 0x81 if colors else 0, 0, 0) + colors
    frame = b"," + struct.pack("<HHHHB", 0, 0, len(indices), 1, 0x81 if own else 0) + own
    return screen + control + frame + b"\x08" + bytes([len(packed)]) + packed + b"\0;"


RAMP = b"".join(bytes([value] * 3) for value in range(4))
FOUR = b"".join(bytes([value] * 3) for value in (9, 8, 7, 6))
# (what it is, file, the red values that a viewer shows)
BEYOND: list[tuple[str, bytes, list[int]]] = [
    ("a palette", of_8_bits(b"\0\3\4\xff", colors=FOUR), [9, 6, 0, 0]),
    ("a scale of grays", of_8_bits(b"\0\3\4\xff", colors=RAMP), [0, 3, 0, 0]),
    ("the frame's own palette", of_8_bits(b"\0\3\4\xff", own=FOUR), [9, 6, 0, 0]),
    ("the frame's own scale of grays", of_8_bits(b"\0\3\4\xff", own=RAMP), [0, 3, 0, 0]),
    ("the frame's own scale, before all others'", of_8_bits(b"\0\3\4\xff", colors=FOUR, own=RAMP), [0, 3, 0, 0]),
    ("a palette, transparent there", of_8_bits(b"\0\3\4\xff", colors=FOUR, transparent=4), [9, 6, 255, 0]),
    ("a scale, transparent there", of_8_bits(b"\0\3\4\xff", colors=RAMP, transparent=4), [0, 3, 255, 0]),
    ("a scale, transparent inside", of_8_bits(b"\0\3\4\xff", colors=RAMP, transparent=3), [0, 255, 0, 0]),
]


@pytest.mark.parametrize(("data", "shown"), [row[1:] for row in BEYOND], ids=[row[0] for row in BEYOND])
def test_beyond_the_palette_it_is_black(data: bytes, shown: list[int]) -> None:
    """As browsers show it."""
    assert decode_image(data)[0, :, 0].tolist() == shown


def test_without_a_palette_nobody_knows_its_colors() -> None:
    with pytest.raises(UnsupportedVariant, match=r"no palette.*send it as a PNG"):
        decode_image(of_8_bits(b"\0\3\4\xff"))


# (left and top of the frame, the screen, the size that is shown)
PLACES = [
    ((0, 0), (10, 12), (10, 12)),
    ((4, 6), (40, 24), (40, 24)),
    ((0, 0), (40, 24), (40, 24)),
    ((30, 12), (40, 24), (40, 24)),
    ((0, 0), (10, 24), (10, 24)),
    ((0, 0), (5, 5), (10, 12)),
    ((0, 0), (0, 0), (10, 12)),
    ((3, 0), (5, 40), (13, 40)),
    ((35, 20), (40, 24), (45, 32)),
]


@pytest.mark.parametrize("before", [b"", COMMENT, COMMENT + b"!\xf9\4\0\0\0\0\0"], ids=["frame", "comment", "delay"])
@pytest.mark.parametrize("frame", [COLORED, GRAY], ids=["colors", "gray"])
@pytest.mark.parametrize(("at", "screen", "size"), PLACES)
def test_a_frame_lies_on_white(
    at: tuple[int, int], screen: tuple[int, int], size: tuple[int, int], frame: Image.Image, before: bytes
) -> None:
    data = gif(frame, at, screen, before=before)
    expected = Image.new("RGB", size, "white")
    expected.paste(frame.convert("RGB"), at)
    np.testing.assert_array_equal(decode_image(data), np.asarray(expected))
    assert (probe(data).width, probe(data).height) == size


@pytest.mark.parametrize("frame", [COLORED, GRAY], ids=["colors", "gray"])
def test_so_does_one_in_which_a_color_is_transparent(frame: Image.Image) -> None:
    data = gif(frame, (4, 6), (40, 24), before=b"!\xf9\4\1\0\0\3\0")
    expected = np.full((24, 40, 3), 255, np.uint8)
    inside = np.asarray(frame.convert("RGB")).copy()
    inside[np.asarray(frame) == 3] = 255
    expected[6:18, 4:14] = inside
    np.testing.assert_array_equal(decode_image(data), expected)


@pytest.mark.parametrize("interlaced", [0, 0x40])
@pytest.mark.parametrize("missing", [1, 5, 19, 20])
@pytest.mark.parametrize("follows", ["nothing", "zeros", "erased flash", "frames"])
def test_a_frame_that_ends_early_is_not_filled_with_what_follows(follows: str, missing: int, interlaced: int) -> None:
    data = bytearray(of_8_bits(b"\1" * (20 - missing), colors=FOUR))
    start = 13 + len(FOUR)
    data[6:10] = struct.pack("<HH", 5, 4)
    data[start + 5 : start + 10] = struct.pack("<HHB", 5, 4, interlaced)
    frame = bytes(data[start:-1])
    behind = {"nothing": b"", "zeros": bytes(100_000), "erased flash": b"\xff" * 100_000, "frames": frame * 4000}
    with pytest.raises(DamagedImage):
        decode_image(bytes(data[:-1]) + behind[follows] + b";")
