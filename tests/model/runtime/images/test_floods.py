"""Files of millions of parts that each cost their readers time and hold nothing: refused once they are too many, and
files with a few of the same parts are read. What is refused is not handed to a decoder.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from model.runtime.images.errors import DamagedImage, ImageError, UnsupportedVariant
from model.runtime.images.formats import bmp, gif, jpeg, jpeg2000, png, webp
from model.runtime.images.reading import probe, read_picture
from model.runtime.images.tiff.segments import MOST_BY_PILLOW
from tests.model.runtime.images.pictures import encode, picture

SOME = 3
SMALL = picture(24, 40)
INDEXED = SMALL.quantize(16)
BARE_GIF = encode(INDEXED, "GIF")
FRAME_AT = BARE_GIF.index(b",", 13 + 48)
JPEG = encode(SMALL, "JPEG", quality=90)
PROGRESSIVE = encode(SMALL, "JPEG", quality=90, progressive=True)
ANIMATED = encode(SMALL, "WEBP", save_all=True, append_images=[SMALL.rotate(180)], duration=50)
JP2 = encode(SMALL, "JPEG 2000")


def in_gif(more: bytes, count: int) -> bytes:
    return BARE_GIF[:FRAME_AT] + more * count + BARE_GIF[FRAME_AT:]


def in_comment(count: int) -> bytes:
    return in_gif(b"!\xfe" + b"\1a" * count + b"\0", 1)


def in_png(count: int) -> bytes:
    data = encode(SMALL, "PNG")
    empty = b"\0\0\0\0teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
    return data[:33] + empty * count + data[33:]


def in_webp(count: int) -> bytes:
    """An animation, in whose file the flag for alpha is missing: it is looked for in the chunks."""
    data = bytearray(ANIMATED)
    data[20] &= ~0x10
    data[30:30] = b"test\0\0\0\0" * count
    struct.pack_into("<I", data, 4, len(data) - 8)
    return bytes(data)


def in_jpeg(count: int) -> bytes:
    return JPEG[:2] + b"\xff\xfe\0\2" * count + JPEG[2:]


def in_exif(count: int) -> bytes:
    """Pillow joins such segments, and copies all before each time."""
    return JPEG[:2] + b"\xff\xe1\0\x09Exif\0\0a" * count + JPEG[2:]


def in_scans(count: int) -> bytes:
    """Of each more an empty scan that begins as the last of the file."""
    at = PROGRESSIVE.rindex(b"\xff\xda")
    header = PROGRESSIVE[at : at + 2 + int.from_bytes(PROGRESSIVE[at + 2 : at + 4], "big")]
    return PROGRESSIVE[:-2] + header * count + PROGRESSIVE[-2:]


def in_jpeg_2000(count: int) -> bytes:
    at = JP2.index(b"jp2c") - 4
    return JP2[:at] + b"\0\0\0\x08free" * count + JP2[at:]


def in_tiles(side: int) -> bytes:
    return encode(SMALL.resize((80, 60)), "JPEG 2000", tile_size=(side, side))


def in_bmp(runs: int) -> bytes:
    """Packed rows of 1024 pixels, each pixel a run of its own."""
    width, height = 1024, -(-runs // 1024)
    rows = (b"\1\7" * width + b"\0\0") * height + b"\0\1"
    palette = bytes(range(256)) * 4
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(rows), 0, 0, 54 + 1024) + header + palette + rows


FLOODS: list[tuple[str, Callable[[int], bytes], int, int, type[ImageError]]] = [
    ("bytes between a GIF's blocks", lambda count: in_gif(b"\0", count), SOME, gif.MOST_BLOCKS, DamagedImage),
    ("a GIF's extensions", lambda count: in_gif(b"!\xfe\0", count), SOME, gif.MOST_BLOCKS, DamagedImage),
    ("blocks of a GIF's comment", in_comment, SOME, gif.MOST_BLOCKS, DamagedImage),
    ("a PNG's chunks", in_png, SOME, png.MOST_CHUNKS, DamagedImage),
    ("a WebP's chunks", in_webp, 0, webp.MOST_CHUNKS, DamagedImage),
    ("a JPEG's segments", in_jpeg, SOME, jpeg.MOST_SEGMENTS, DamagedImage),
    ("a JPEG's EXIF", in_exif, SOME, jpeg.MOST_SEGMENTS, DamagedImage),
    ("a JPEG's scans", in_scans, 0, jpeg.MOST_SCANS, DamagedImage),
    ("boxes of JPEG 2000", in_jpeg_2000, SOME, jpeg2000.MOST_BOXES, DamagedImage),
    ("runs of a BMP", in_bmp, 1024, bmp.MOST_RUNS + 1024, UnsupportedVariant),
]
NAMES = [name for name, *_ in FLOODS]


@pytest.mark.parametrize(("flood", "some"), [(row[1], row[2]) for row in FLOODS], ids=NAMES)
def test_some_are_read(flood: Callable[[int], bytes], some: int) -> None:
    assert read_picture(flood(some)).values.shape[-1] == 3


@pytest.mark.parametrize(("flood", "most", "error"), [(row[1], *row[3:]) for row in FLOODS], ids=NAMES)
def test_too_many_are_refused(flood: Callable[[int], bytes], most: int, error: type[ImageError]) -> None:
    with pytest.raises(error, match="more than") as caught:
        read_picture(flood(most + 1))
    assert type(caught.value) is error


def test_a_jpeg_is_the_same_without_what_is_taken_away() -> None:
    profile = encode(SMALL, "JPEG", quality=90, icc_profile=bytes(70_000), comment=b"a text")
    between = JPEG[:2] + b"\xff\xff\0junk\xff\0\xff\xff" + JPEG[2:]
    for data in (profile, between):
        np.testing.assert_array_equal(read_picture(data).values, np.asarray(Image.open(BytesIO(JPEG))))
    assert len(jpeg.plain(profile)) < 70_000


def test_exif_and_adobes_colors_are_no_ballast() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_picture(encode(SMALL, "JPEG", quality=90, exif=exif, comment=b"a")).values
    np.testing.assert_array_equal(turned, np.rot90(read_picture(JPEG).values, -1))
    inks = encode(SMALL.convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in jpeg.plain(inks)


def test_very_small_tiles_of_jpeg_2000_are_refused_where_there_are_many() -> None:
    assert read_picture(in_tiles(16)).values.shape == (60, 80, 3)
    with pytest.raises(UnsupportedVariant, match="4800 tiles of 1 pixels"):
        read_picture(in_tiles(1))


@pytest.mark.parametrize("bits", [9, 12, 14])
@pytest.mark.parametrize(("height", "width"), [(5000, 1), (1, 5000), (300, 700)])
def test_values_of_odd_bits(bits: int, height: int, width: int) -> None:
    """However many rows they are in, which are unpacked some at a time."""
    values = np.random.default_rng(bits).integers(0, 2**bits, (height, width))
    digits = values[..., None] >> np.arange(bits - 1, -1, -1) & 1
    packed = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    directory = b"".join(struct.pack("<HHII", *tag[:2], 1, tag[2]) for tag in (*tags, (279, 4, len(packed))))
    start = 8 + len(packed)
    data = b"II*\0" + struct.pack("<I", start) + packed + struct.pack("<H", len(tags) + 1) + directory + bytes(4)
    np.testing.assert_array_equal(read_picture(data).values, values)


def test_a_header_is_probed_as_it_is_read() -> None:
    with pytest.raises(DamagedImage, match="more than"):
        probe(in_gif(b"\0", gif.MOST_BLOCKS + 1))
    assert probe(in_comment(SOME)).width == 40


def in_strips(count: int, compression: int, packed: bytes) -> bytes:
    """Rows of 8 values of 16 bits, each a strip of its own, and all the same one."""
    start = 8 + len(packed) + 8 * count
    lists = struct.pack("<I", 8) * count + struct.pack("<I", len(packed)) * count
    tags = [(256, 4, 1, 8), (257, 4, 1, count), (258, 3, 1, 16), (259, 3, 1, compression), (262, 3, 1, 1)]
    tags += [(273, 4, count, 8 + len(packed)), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, count, start - 4 * count)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + packed + lists + directory


def test_very_many_strips_are_read_where_that_is_quick() -> None:
    packed = zlib.compress(np.arange(8, dtype="<u2").tobytes())
    values = read_picture(in_strips(MOST_BY_PILLOW + 1, 8, packed + bytes(len(packed) % 2))).values
    np.testing.assert_array_equal(values, np.tile(np.arange(8), (MOST_BY_PILLOW + 1, 1)))
    by_pillow = b"\xf1\0"  # PackBits
    assert not read_picture(in_strips(50, 32773, by_pillow)).values.any()
    with pytest.raises(UnsupportedVariant, match=f"{MOST_BY_PILLOW + 1} packed strips"):
        read_picture(in_strips(MOST_BY_PILLOW + 1, 32773, by_pillow))
