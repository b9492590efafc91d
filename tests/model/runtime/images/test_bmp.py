"""BMPs of kinds that Pillow alone reads otherwise than viewers: gray palettes of few colors, alpha that nobody set,
packed rows with gaps."""

from __future__ import annotations

import struct

import pytest

from model.runtime.images.decode import decode_image
from model.runtime.images.errors import DamagedImage, UnsupportedVariant

RAW, RLE8, RLE4, BITFIELDS = range(4)
INFO, V2, V3, V4, V5 = 40, 52, 56, 108, 124
BGRA = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
RGBA = (0xFF, 0xFF00, 0xFF0000, 0xFF000000)
NO_ALPHA = (0xFF0000, 0xFF00, 0xFF, 0)
OF_16_BITS = (0x7C00, 0x3E0, 0x1F, 0x8000)


def bmp(
    pixels: bytes,
    width: int,
    bits: int,
    *,
    height: int = 1,
    compression: int = RAW,
    header: int = INFO,
    masks: tuple[int, ...] = (),
    palette: bytes = b"",
) -> bytes:
    """With the masks in the header, or behind one that has no place for them."""
    fields = struct.pack(
        "<iiHHIIiiII", width, height, 1, bits, compression, len(pixels), 0, 0, len(palette) // 4, 0
    ) + struct.pack(f"<{len(masks)}I", *masks)
    fields = fields.ljust(header - 4, b"\0")
    offset = 18 + len(fields) + len(palette)
    start = b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset)
    return start + struct.pack("<I", header) + fields + palette + pixels


def grays(*values: int) -> bytes:
    return b"".join(bytes([value, value, value, 0]) for value in values)


def with_alpha(*alphas: int, compression: int = BITFIELDS, header: int = V5, masks: tuple[int, ...] = BGRA) -> bytes:
    """Pixels of the red values 10, 20, ... with these alphas, both in the byte where BGRA has them."""
    pixels = b"".join(bytes([1, 2, 10 * (index + 1), alpha]) for index, alpha in enumerate(alphas))
    return bmp(pixels, len(alphas), 32, compression=compression, header=header, masks=masks)


def of_16_bits(*pixels: int, header: int = V4) -> bytes:
    packed = struct.pack(f"<{len(pixels)}H", *pixels)
    return bmp(packed, len(pixels), 16, compression=BITFIELDS, header=header, masks=OF_16_BITS)


BLACK_AND_WHITE = grays(0, 255)
# (what it is, file, the red values that a viewer shows)
SHOWN: list[tuple[str, bytes, list[int]]] = [
    ("a mask of 8 bits", bmp(b"\0\1\0\1\1\1\0\0", 8, 8, palette=BLACK_AND_WHITE), [0, 255, 0, 255, 255, 255, 0, 0]),
    ("a mask of 4 bits", bmp(b"\x01\x01\x11\0", 8, 4, palette=BLACK_AND_WHITE), [0, 255, 0, 255, 255, 255, 0, 0]),
    ("a mask of 1 bit", bmp(b"\x5c\0\0\0", 8, 1, palette=BLACK_AND_WHITE), [0, 255, 0, 255, 255, 255, 0, 0]),
    ("a mask, white first", bmp(b"\0\1\0\1", 4, 8, palette=grays(255, 0)), [255, 0, 255, 0]),
    ("a mask, packed", bmp(b"\2\1\2\0\0\1", 4, 8, compression=RLE8, palette=BLACK_AND_WHITE), [255, 255, 0, 0]),
    ("labels of 4 bits", bmp(b"\x01\x23\x4f\0", 6, 4, palette=grays(*range(16))), [0, 1, 2, 3, 4, 15]),
    ("beyond the palette, colors", bmp(b"\0\1\2\xff", 4, 8, palette=grays(9, 8)), [9, 8, 0, 0]),
    ("beyond the palette, labels of 8 bits", bmp(b"\1\4\5\xff", 4, 8, palette=grays(*range(5))), [1, 4, 0, 0]),
    ("beyond the palette, labels of 4 bits", bmp(b"\x14\x5f\0\0", 4, 4, palette=grays(*range(5))), [1, 4, 0, 0]),
    ("beyond the palette, packed", bmp(b"\2\1\2\7\0\1", 4, 8, compression=RLE8, palette=grays(0, 1, 2)), [1, 1, 0, 0]),
    ("beyond the palette, one black", bmp(b"\x5c\0\0\0", 8, 1, palette=grays(0)), [0] * 8),
    ("few labels of 4 bits", bmp(b"\x01\x24\0\0", 4, 4, palette=grays(*range(5))), [0, 1, 2, 4]),
    ("labels of 4 bits, packed", bmp(b"\4\x12\0\1", 4, 4, compression=RLE4, palette=grays(*range(16))), [1, 2, 1, 2]),
    ("labels of 8 bits", bmp(b"\0\1\2\xff", 4, 8, palette=grays(*range(256))), [0, 1, 2, 255]),
    ("no alpha is set, V5", with_alpha(0, 0), [10, 20]),
    ("no alpha is set, V4", with_alpha(0, 0, header=V4), [10, 20]),
    ("no alpha is set, V3", with_alpha(0, 0, header=V3), [10, 20]),
    ("no alpha is set, as RGBA", with_alpha(0, 0, masks=RGBA), [1, 1]),
    ("some alpha is set", with_alpha(0, 255, 0), [255, 20, 255]),
    ("all alpha is set", with_alpha(255, 255), [10, 20]),
    ("half transparent", with_alpha(128, 0), [132, 255]),
    ("a mask of alpha that does not count", with_alpha(0, 255, compression=RAW), [10, 20]),
    ("no mask for alpha", with_alpha(0, 255, masks=NO_ALPHA), [10, 20]),
    ("no masks at all", with_alpha(0, 255, masks=(0, 0, 0, 0)), [10, 20]),
    ("a header without alpha", with_alpha(0, 255, compression=RAW, header=INFO, masks=()), [10, 20]),
    ("a header without alpha, masks behind it", with_alpha(0, 255, header=INFO, masks=NO_ALPHA[:3]), [10, 20]),
    ("a header with three masks", with_alpha(0, 255, header=V2, masks=NO_ALPHA[:3]), [10, 20]),
    ("16 bits, some alpha is set", of_16_bits(0x7C00, 0x8000), [255, 0]),
    ("16 bits, one is seen", of_16_bits(0, 0x8000), [255, 0]),
    ("16 bits, no alpha is set", of_16_bits(0, 0x7C00), [0, 255]),
    ("16 bits, the last row's padding is missing", of_16_bits(0, 0x8000, 0), [255, 0, 255]),
]


@pytest.mark.parametrize(("data", "shown"), [row[1:] for row in SHOWN], ids=[row[0] for row in SHOWN])
def test_it_looks_as_in_a_viewer(data: bytes, shown: list[int]) -> None:
    assert decode_image(data)[0, :, 0].tolist() == shown


@pytest.mark.parametrize(("height", "shown"), [(2, [[0], [255]]), (-2, [[255], [0]])], ids=["bottom-up", "top-down"])
def test_alpha_of_16_bits_stands_where_its_color_does(height: int, shown: list[list[int]]) -> None:
    pixels = struct.pack("<HHHH", 0, 0, 0x8000, 0)  # each row padded to 4 bytes
    data = bmp(pixels, 1, 16, height=height, compression=BITFIELDS, header=V5, masks=OF_16_BITS)
    assert decode_image(data)[..., 0].tolist() == shown


def packed(pixels: bytes, *, bits: int = 8, gap: int = 0) -> bytes:
    """4 x 2 pixels of gray palette, run-length encoded; so many bytes lie between the palette and them."""
    colors = grays(*range(2**bits))
    data = bmp(b"\0" * gap + pixels, 4, bits, height=2, compression=RLE8 if bits == 8 else RLE4, palette=colors)
    offset = len(data) - len(pixels)
    return data[:10] + struct.pack("<I", offset) + data[14:]


# (what it is, packed pixels, their bits, the rows that a viewer shows, the lower first as in the file)
WITHOUT_GAPS: list[tuple[str, bytes, int, list[list[int]]]] = [
    ("repeated", b"\4\1\0\0\4\2\0\1", 8, [[1] * 4, [2] * 4]),
    ("as they are", b"\0\4\1\2\3\4\0\0\0\4\5\6\7\x08\0\1", 8, [[1, 2, 3, 4], [5, 6, 7, 8]]),
    ("an odd number, padded", b"\0\3\1\2\3\0\1\4\0\0\1\5\0\3\6\7\x08\0\0\1", 8, [[1, 2, 3, 4], [5, 6, 7, 8]]),
    ("each row has its end", b"\4\1\0\0\4\2\0\0\0\1", 8, [[1] * 4, [2] * 4]),
    ("without an end", b"\4\1\0\0\4\2", 8, [[1] * 4, [2] * 4]),
    ("something behind the end", b"\4\1\0\0\4\2\0\1\0\2\7\7", 8, [[1] * 4, [2] * 4]),
    ("repeated beyond the edge", b"\x06\1\0\0\x06\2\0\1", 8, [[1] * 4, [2] * 4]),
    ("4 bits", b"\4\x12\0\0\0\4\x34\x56\0\1", 4, [[1, 2, 1, 2], [3, 4, 5, 6]]),
    ("4 bits, padded", b"\0\3\x12\x30\1\x40\0\0\0\4\x34\x56\0\1", 4, [[1, 2, 3, 4], [3, 4, 5, 6]]),
]


@pytest.mark.parametrize("gap", [0, 1, 2], ids=["right behind the palette", "at an odd byte", "at an even byte"])
@pytest.mark.parametrize(
    ("pixels", "bits", "rows"), [row[1:] for row in WITHOUT_GAPS], ids=[r[0] for r in WITHOUT_GAPS]
)
def test_packed_rows_without_gaps_are_read(pixels: bytes, bits: int, rows: list[list[int]], gap: int) -> None:
    assert decode_image(packed(pixels, bits=bits, gap=gap))[::-1, :, 0].tolist() == rows


# (what it is, packed pixels, their bits, what the message says of them)
WITH_GAPS: list[tuple[str, bytes, int, str]] = [
    ("a jump to the right", b"\2\1\0\2\1\0\1\1\0\0\4\2\0\1", 8, "leave pixels out"),
    ("a jump up", b"\2\1\0\2\0\1\2\1\0\1", 8, "leave pixels out"),
    ("a jump over all", b"\0\2\4\1\0\1", 8, "leave pixels out"),
    ("a short row", b"\2\1\0\0\4\2\0\1", 8, "leave pixels out"),
    ("a short row that is the last", b"\4\1\0\0\2\2\0\1", 8, "leave pixels out"),
    ("an empty row", b"\0\0\4\2\0\1", 8, "leave pixels out"),
    ("an early end", b"\4\1\0\1", 8, "leave pixels out"),
    ("nothing but an end", b"\0\1", 8, "leave pixels out"),
    ("4 bits, a jump", b"\2\x11\0\2\2\0\0\0\4\x22\0\1", 4, "leave pixels out"),
    ("4 bits, a short row", b"\0\3\x12\x30\0\0\4\x22\0\1", 4, "leave pixels out"),
    ("into the next row", b"\0\x08\1\2\3\4\5\6\7\x08\0\1", 8, "beyond the picture's edge"),
    ("4 bits, into the next row", b"\0\x06\x12\x34\x56\0\2\x77\0\1", 4, "beyond the picture's edge"),
]


@pytest.mark.parametrize(("pixels", "bits", "why"), [row[1:] for row in WITH_GAPS], ids=[row[0] for row in WITH_GAPS])
def test_packed_rows_with_gaps_are_refused(pixels: bytes, bits: int, why: str) -> None:
    with pytest.raises(UnsupportedVariant, match=f"packed rows .*{why}; save it without compression"):
        decode_image(packed(pixels, bits=bits))


@pytest.mark.parametrize("pixels", [b"", b"\4\1\0\0\2", b"\4\1\0\0\2\2", b"\4\1\0\0\0\4\1\2"])
def test_packed_rows_that_are_cut_short_are_damage(pixels: bytes) -> None:
    with pytest.raises(DamagedImage):
        decode_image(packed(pixels))


@pytest.mark.parametrize("size", [2, 13, 14, 17, 18, 29, 53, 54, 56])
def test_one_that_is_cut_short_is_called_so(size: int) -> None:
    whole = bmp(bytes(8), 2, 24)
    with pytest.raises(DamagedImage, match=r"(cut short|[Tt]runcated)"):
        decode_image(whole[:size])
