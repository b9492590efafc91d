"""PNGs with everything that Pillow alone does not do: bulky or damaged side chunks, deep colors, transparent colors."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.decode import decode_image
from model.runtime.images.errors import DamagedImage, UnsupportedVariant
from model.runtime.images.reading import probe, read_picture
from tests.model.runtime.images.pictures import encode, picture

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(rows: list[bytes], width: int, depth: int, color: int, *before: bytes) -> bytes:
    """A PNG of unfiltered rows, with more chunks before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, color, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + pixels + chunk(b"IEND", b"")


def deep(values: NDArray[np.uint16], color: int, *before: bytes) -> bytes:
    """A 16-bit PNG of uint16 [H, W, C]."""
    return png([row.astype(">u2").tobytes() for row in values], values.shape[1], 16, color, *before)


def with_chunk(extra: bytes) -> bytes:
    data = encode(picture(), "PNG")
    return data[:33] + extra + data[33:]


def wrong_checksum(intact: bytes) -> bytes:
    return intact[:-1] + bytes([intact[-1] ^ 1])


MEGABYTES = b"<x>1</x>" * 190_000
PASSED_OVER = {
    "text of an instrument": chunk(b"zTXt", b"meta\0\0" + zlib.compress(MEGABYTES)),
    "XMP, compressed": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(MEGABYTES)),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + MEGABYTES),
    "plain text": chunk(b"tEXt", b"meta\0" + MEGABYTES),
    "text that is no text": chunk(b"zTXt", b"\xff"),
    "color profile": chunk(b"iCCP", b"mine\0\0" + zlib.compress(MEGABYTES)),
    "color profile that unpacks to a gigabyte": chunk(b"iCCP", b"mine\0\0" + zlib.compress(bytes(2**20)) * 1000),
    "many texts": chunk(b"zTXt", b"meta\0\0" + zlib.compress(b" " * 900_000)) * 80,
    "an unknown chunk": chunk(b"miNe", b"what is this"),
    "wrong checksum of a text": wrong_checksum(chunk(b"tEXt", b"meta\0hello")),
    "wrong checksum of a profile": wrong_checksum(chunk(b"iCCP", b"mine\0\0" + zlib.compress(b"profile"))),
    "wrong checksum of a transparent color": wrong_checksum(chunk(b"tRNS", bytes(6))),
    "wrong checksum of an orientation": wrong_checksum(chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0")),
    "dates and sizes": chunk(b"tIME", bytes(7)) + chunk(b"pHYs", bytes(9)),
}


@pytest.mark.parametrize("extra", PASSED_OVER.values(), ids=PASSED_OVER)
def test_what_viewers_pass_over_does_not_matter(extra: bytes) -> None:
    data = with_chunk(extra)
    assert (probe(data).width, probe(data).height) == (40, 24)
    np.testing.assert_array_equal(decode_image(data), np.asarray(picture()))
    behind = encode(picture(), "PNG")
    behind = behind[:-12] + extra + behind[-12:] + b"what follows the end is nobody's"
    np.testing.assert_array_equal(decode_image(behind), np.asarray(picture()))


@pytest.mark.parametrize("name", ["IHDR", "PLTE", "IDAT"])
def test_a_wrong_checksum_of_what_makes_the_picture_is_damage(name: str) -> None:
    data = bytearray(encode(picture().quantize(8), "PNG"))
    at = data.index(name.encode())
    data[at + 4 + struct.unpack(">I", data[at - 4 : at])[0]] ^= 1
    with pytest.raises(DamagedImage, match=f"the {name} chunk at byte {at - 4} has a wrong checksum"):
        decode_image(bytes(data))


WHOLE = encode(picture().quantize(8), "PNG")
PALETTE_CHUNK = WHOLE[33 : WHOLE.index(b"IDAT") - 4]


def header_with(at: int, value: int) -> bytes:
    header = bytearray(WHOLE[16:29])
    header[at] = value
    return WHOLE[:8] + chunk(b"IHDR", bytes(header)) + WHOLE[33:]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(with_chunk(chunk(b"ABCD", b"")), "critical chunk ABCD", id="unknown"),
        pytest.param(with_chunk(chunk(b"ABcD", b"")), "critical chunk ABcD", id="unknown and private"),
        pytest.param(with_chunk(chunk(b"JDAT", bytes(9))), "critical chunk JDAT", id="JPEG in a PNG"),
        pytest.param(WHOLE.replace(b"IDAT", b"DDAT"), "wrong checksum", id="pixels under another name"),
        pytest.param(WHOLE[:-12] + chunk(b"ABCD", b"x") + WHOLE[-12:], "critical chunk ABCD", id="behind the pixels"),
        pytest.param(WHOLE[:8] + chunk(b"CgBI", b"\x50\0\x20\2") + WHOLE[8:], "Apple.*iOS.*CgBI", id="Apple's"),
        pytest.param(WHOLE[:33] + WHOLE[8:], "a second header", id="two headers"),
        pytest.param(WHOLE[:8] + chunk(b"tRNS", b"\0") + WHOLE[8:], "does not come first", id="header not first"),
        pytest.param(WHOLE[:8] + chunk(b"tEXt", b"a\0b") + WHOLE[8:], "does not come first", id="text first"),
        pytest.param(WHOLE[:8] + chunk(b"tRNS", b""), "does not come first", id="no header"),
        pytest.param(WHOLE.replace(PALETTE_CHUNK, b""), "has no palette", id="no palette"),
        pytest.param(WHOLE.replace(PALETTE_CHUNK, chunk(b"PLTE", bytes(4))), "within a color", id="a third of a color"),
        pytest.param(header_with(3, 0), "no pixels", id="no width"),
        pytest.param(WHOLE[:8] + chunk(b"IHDR", bytes(14)), "not as long", id="a header that is too long"),
        pytest.param(WHOLE[:8] + chunk(b"IHDR", b""), "not as long", id="a header that is empty"),
        pytest.param(header_with(8, 16), "names a depth", id="a palette of 16 bits"),
        pytest.param(header_with(9, 5), "names a depth, kind of colors", id="colors of no kind"),
        pytest.param(WHOLE[:33] + PALETTE_CHUNK + WHOLE[33:], "a second one", id="two palettes"),
        pytest.param(WHOLE[:-12] + PALETTE_CHUNK + WHOLE[-12:], "behind the pixels", id="palette behind the pixels"),
        pytest.param(header_with(10, 1), "compression", id="unknown compression"),
        pytest.param(header_with(11, 64), "filter", id="MNG's filter"),
        pytest.param(header_with(12, 2), "or interlacing", id="unknown interlacing"),
    ],
)
def test_what_no_reader_may_pass_over_is_refused(data: bytes, said: str) -> None:
    for read in (probe, decode_image):
        with pytest.raises(DamagedImage, match=said):
            read(data)


def test_an_animation_s_first_picture_is_read() -> None:
    frames = [picture(), Image.new("RGB", picture().size)]
    data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert b"acTL" in data
    np.testing.assert_array_equal(decode_image(data), np.asarray(picture()))


HIDDEN = encode(picture(), "PNG", save_all=True, default_image=True, append_images=[picture().rotate(180)] * 2)
"""The picture that programs without animations read is no frame of the animation."""


def of_animation(data: bytes, name: bytes) -> bytes:
    """The first chunk of that name."""
    at = data.index(name) - 4
    return data[at : at + 12 + struct.unpack_from(">I", data, at)[0]]


COUNT, FRAME = of_animation(HIDDEN, b"acTL"), of_animation(HIDDEN, b"fcTL")
OTHERS_SEE_MORE = {
    "as written": HIDDEN,
    "of one frame": HIDDEN.replace(COUNT, chunk(b"acTL", struct.pack(">II", 1, 0))),
    "the frame's chunk is damaged": HIDDEN.replace(COUNT, COUNT + wrong_checksum(FRAME)),
    "with a palette": png([b"\0\1"], 2, 8, PALETTE, chunk(b"PLTE", bytes(6)), COUNT),
}


@pytest.mark.parametrize("data", OTHERS_SEE_MORE.values(), ids=OTHERS_SEE_MORE)
def test_an_animation_whose_first_frame_is_another_picture_is_refused(data: bytes) -> None:
    for read in (probe, decode_image):
        with pytest.raises(UnsupportedVariant, match=r"APNG.*as a plain PNG"):
            read(data)


ALL_SEE_THE_PICTURE = {
    "no count of frames": HIDDEN.replace(COUNT, b""),
    "a damaged count of frames": HIDDEN.replace(COUNT, wrong_checksum(COUNT)),
    "the count comes behind the pixels": HIDDEN.replace(COUNT, b"").replace(FRAME, COUNT + FRAME, 1),
    "it is the first frame": HIDDEN.replace(COUNT, COUNT + FRAME),
    "the frame comes before the count": HIDDEN.replace(COUNT, FRAME + COUNT),
}


@pytest.mark.parametrize("data", ALL_SEE_THE_PICTURE.values(), ids=ALL_SEE_THE_PICTURE)
def test_the_picture_of_what_is_no_such_animation_is_read(data: bytes) -> None:
    np.testing.assert_array_equal(decode_image(data), np.asarray(picture()))


def colors(count: int) -> bytes:
    return chunk(b"PLTE", bytes(range(1, 3 * count + 1)))


# (what it is, file of 8 pixels in a row)
BEYOND_THE_PALETTE: list[tuple[str, bytes]] = [
    ("1 bit", png([b"\x01"], 8, 1, PALETTE, colors(1))),
    ("2 bits", png([b"\x1b\0"], 8, 2, PALETTE, colors(3))),
    ("4 bits", png([b"\x01\x23\x45\x68"], 8, 4, PALETTE, colors(8))),
    ("8 bits", png([b"\0\1\2\3\4\5\6\7"], 8, 8, PALETTE, colors(7))),
    ("8 bits, the last", png([b"\0\1\2\3\4\5\6\xff"], 8, 8, PALETTE, colors(80))),
    ("an empty palette", png([bytes(8)], 8, 8, PALETTE, colors(0))),
    ("with transparency", png([b"\0\1\2\3\4\5\6\7"], 8, 8, PALETTE, colors(7), chunk(b"tRNS", b"\x80" * 3))),
    ("with an orientation of that name", png([b"\4" * 8], 8, 8, PALETTE, chunk(b"eXIf", b"PLTE" * 9), colors(4))),
]


@pytest.mark.parametrize("data", [row[1] for row in BEYOND_THE_PALETTE], ids=[row[0] for row in BEYOND_THE_PALETTE])
def test_colors_that_the_palette_does_not_have_are_damage(data: bytes) -> None:
    with pytest.raises(DamagedImage, match="a color that its palette does not have"):
        decode_image(data)


@pytest.mark.parametrize(("depth", "count"), [(1, 1), (1, 2), (2, 3), (4, 8), (4, 16), (8, 5), (8, 80)])
def test_a_palette_of_few_colors_is_enough_for_those_that_it_has(depth: int, count: int) -> None:
    row = np.full(5, count - 1, np.uint8)  # what is left of the last byte is no pixel
    bits = np.unpackbits(row[:, None], axis=1)[:, 8 - depth :].ravel()
    packed = np.packbits(np.append(bits, np.ones(-bits.size % 8, np.uint8))).tobytes()
    assert decode_image(png([packed], 5, depth, PALETTE, colors(count)))[0, :, 2].tolist() == [3 * count] * 5


def test_of_transparent_colors_the_first_that_is_in_its_place_counts() -> None:
    data = png([b"\1\2\3\4\5\6"], 2, 8, RGB)
    first, second = chunk(b"tRNS", b"\0\1\0\2\0\3"), chunk(b"tRNS", b"\0\4\0\5\0\6")
    for late, shown in (
        (data[:-12] + first + data[-12:], [1, 4]),
        (data[:33] + first + second + data[33:], [255, 4]),
        (data[:33] + wrong_checksum(first) + second + data[33:], [1, 255]),
    ):
        assert decode_image(late)[0, :, 0].tolist() == shown
    palette, alpha = chunk(b"PLTE", b"\1\2\3\4\5\6"), chunk(b"tRNS", b"\0")
    assert decode_image(png([b"\0\1"], 2, 8, PALETTE, palette, alpha))[0, :, 0].tolist() == [255, 4]
    assert decode_image(png([b"\0\1"], 2, 8, PALETTE, alpha, palette))[0, :, 0].tolist() == [1, 4]


def gray(width: int, depth: int, row: bytes, key: bytes) -> bytes:
    return png([row], width, depth, GRAY, chunk(b"tRNS", key))


# (what it is, file, the gray or red values that a viewer shows)
TRANSPARENT_COLORS: list[tuple[str, bytes, list[int]]] = [
    ("1-bit gray, black", gray(2, 1, b"\x40", b"\0\0"), [255, 255]),
    ("1-bit gray, white", gray(2, 1, b"\x40", b"\0\1"), [0, 255]),
    ("2-bit gray", gray(4, 2, b"\x1b", b"\0\1"), [0, 255, 170, 255]),
    ("2-bit gray, the key's high bits do not count", gray(4, 2, b"\x1b", b"\0\5"), [0, 255, 170, 255]),
    ("2-bit gray, the key is no stretched value", gray(4, 2, b"\x1b", b"\0\2"), [0, 85, 255, 255]),
    ("4-bit gray", gray(4, 4, b"\x0a\x5f", b"\0\x0a"), [0, 255, 85, 255]),
    ("8-bit gray", gray(3, 8, b"\0\x4d\xff", b"\0\x4d"), [0, 255, 255]),
    ("8-bit RGB", png([b"\1\2\3\1\2\4"], 2, 8, RGB, chunk(b"tRNS", b"\0\1\0\2\0\3")), [255, 1]),
]
NAMES = [row[0] for row in TRANSPARENT_COLORS]


@pytest.mark.parametrize(("data", "shown"), [row[1:] for row in TRANSPARENT_COLORS], ids=NAMES)
def test_one_color_is_transparent(data: bytes, shown: list[int]) -> None:
    assert decode_image(data)[0, :, 0].tolist() == shown


def test_transparent_colors_of_16_bits() -> None:
    """All 16 bits are compared, not only the high ones."""
    grays = read_picture(gray(3, 16, b"\0\0\x12\x34\x12\x35", b"\x12\x34"))
    colors = np.array([[[256, 2, 3], [257, 2, 3], [256, 2, 4]]], np.uint16)
    for decoded, shown in (
        (grays, [[False, True, False]]),
        (read_picture(deep(colors, RGB, chunk(b"tRNS", b"\1\0\0\2\0\3"))), [[True, False, False]]),
    ):
        assert decoded.transparent is not None
        assert decoded.transparent.tolist() == shown


@pytest.mark.parametrize(("color", "channels"), [(RGB, 3), (RGBA, 4), (GRAY_ALPHA, 2)])
def test_16_bits_of_every_color_are_kept(color: int, channels: int) -> None:
    values = np.random.default_rng(color).integers(0, 65536, (6, 5, channels)).astype(np.uint16)
    if color in (RGBA, GRAY_ALPHA):
        values[..., -1] = 65535
    colors = {RGB: values, RGBA: values[..., :3], GRAY_ALPHA: values[..., 0]}[color]
    decoded = read_picture(deep(values, color))
    np.testing.assert_array_equal(decoded.values, colors)
    assert decoded.values.dtype == np.uint16
    turn_right = chunk(b"eXIf", b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x0112, 3, 1, 6) + bytes(4))
    np.testing.assert_array_equal(read_picture(deep(values, color, turn_right)).values, np.rot90(colors, -1))


def test_16_bits_with_alpha_lie_over_white() -> None:
    shown = decode_image(deep(np.array([[[0, 0, 0, 0], [0, 0, 0, 32768], [257, 0, 0, 65535]]], np.uint16), RGBA))
    assert shown.tolist() == [[[255, 255, 255], [127, 127, 127], [1, 0, 0]]]
    assert decode_image(deep(np.array([[[0, 0], [0, 32768]]], np.uint16), GRAY_ALPHA))[0, :, 0].tolist() == [255, 127]


@pytest.mark.parametrize("lacking", [1, 3, 6])
@pytest.mark.parametrize("value", [0, 200], ids=["black", "gray"])
@pytest.mark.parametrize(
    ("depth", "color", "row"), [(8, RGB, 15), (8, GRAY, 5), (16, GRAY, 10), (16, RGB, 30), (1, GRAY, 1), (8, RGBA, 20)]
)
def test_rows_that_are_missing_from_whole_pixels_are_damage(
    depth: int, color: int, row: int, value: int, lacking: int
) -> None:
    """Everything else is in order: the stream ends as it should, and all checksums are right."""
    rows = [bytes([value]) * row] * 7
    whole = png(rows, 5, depth, color)
    read_picture(whole)
    short = png(rows[lacking:], 5, depth, color)
    header = chunk(b"IHDR", whole[16:29])
    with pytest.raises(DamagedImage, match="cannot be decoded"):
        read_picture(short[:8] + header + short[33:])


def interlaced(values: NDArray[np.uint8], depth: int, missing: int = 0) -> bytes:
    """A gray PNG of the seven passes of Adam7 (PNG, section 8.2), of which the last `missing` rows were not written."""
    height, width = values.shape
    rows = []
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        for row in values[y::dy, x::dx]:
            bits = np.unpackbits(row[:, None], axis=1)[:, 8 - depth :]
            rows += [b"\0" + np.packbits(bits).tobytes()] if row.size else []
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, GRAY, 0, 0, 1))
    pixels = zlib.compress(b"".join(rows[: len(rows) - missing]))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (3, 3), (7, 9), (8, 8), (17, 12)], ids=str)
def test_interlaced_pixels_are_read_and_missing_ones_are_damage(size: tuple[int, int], depth: int) -> None:
    values = np.random.default_rng(depth).integers(0, 2**depth, size, np.uint8)
    shown = decode_image(interlaced(values, depth))[..., 0]
    np.testing.assert_array_equal(shown, values.astype(int) * 255 // (2**depth - 1))
    for missing in (1, 2):
        if size != (1, 1):
            with pytest.raises(DamagedImage, match="cannot be decoded"):
                read_picture(interlaced(values, depth, missing))


def test_what_follows_the_last_row_is_not_unpacked() -> None:
    """Where the last row is black its being there is looked into."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 8, GRAY, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(3 * 5) + bytes(2**26)))
    data = b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")
    decode_image(data)
    tracemalloc.start()
    try:
        assert not decode_image(data).any()
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
