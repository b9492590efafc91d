"""JPEG 2000 of depths and signs that Pillow alone turns into other values, compared with what was packed."""

from __future__ import annotations

import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from model.runtime.images.decode import decode_image
from model.runtime.images.errors import DamagedImage, UnsupportedVariant
from model.runtime.images.reading import probe, read_picture
from tests.model.runtime.images.pictures import encode, picture

CONTAINERS = ("jp2", "j2k")


def jpeg2000(values: NDArray[Any], bits: int, container: str = "jp2") -> bytes:
    """Lossless."""
    return bytes(
        imagecodecs.jpeg2k_encode(
            values, level=0, codecformat=container, reversible=True, bitspersample=bits, mct=False
        )
    )


def ramp(bits: int, dtype: str, *, channels: int = 0) -> NDArray[Any]:
    """All of the range of so many bits, from its least value to its greatest."""
    least = -(2 ** (bits - 1)) if dtype.startswith("int") else 0
    values = np.rint(np.linspace(least, least + 2**bits - 1, 24 * 40)).astype(dtype).reshape(24, 40)
    return np.stack([values] * channels, axis=2) if channels else values


def box(name: bytes, content: bytes, *, long: bool = False, open_end: bool = False) -> bytes:
    if long:
        return struct.pack(">I4sQ", 1, name, len(content) + 16) + content
    return struct.pack(">I4s", 0 if open_end else len(content) + 8, name) + content


# (bits, dtype, bits that count where those are fewer than the type's)
GRAYS = [
    (8, "uint8", None),
    (9, "uint16", 9),
    (10, "uint16", 10),
    (12, "uint16", 12),
    (16, "uint16", None),
    (5, "int8", None),
    (8, "int8", None),
    (9, "int16", None),
    (12, "int16", None),
    (16, "int16", None),
]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(("bits", "dtype", "significant"), GRAYS)
def test_gray_values_are_those_of_the_file(bits: int, dtype: str, significant: int | None, container: str) -> None:
    values = ramp(bits, dtype)
    read = read_picture(jpeg2000(values, bits, container))
    assert (read.values.dtype, read.significant_bits) == (np.dtype(dtype), significant)
    np.testing.assert_array_equal(read.values, values)


@pytest.mark.parametrize("bits", [1, 2, 4, 7])
def test_few_bits_reach_from_black_to_white(bits: int) -> None:
    values = ramp(bits, "uint8")
    seen = decode_image(jpeg2000(values, bits))[..., 0]
    np.testing.assert_array_equal(seen, values.astype(int) * 255 // (2**bits - 1))


def test_a_box_may_hold_what_looks_like_a_codestream_or_be_long() -> None:
    values = ramp(16, "int16")
    codestream, decoy = jpeg2000(values, 16, "j2k"), encode(picture(), "JPEG 2000", no_jp2=True)
    whole = jpeg2000(values, 16)
    head = whole[: whole.index(b"jp2c") - 4]
    for boxes in (
        box(b"uuid", bytes(16) + decoy) + box(b"jp2c", codestream),
        box(b"uuid", bytes(16) + decoy, long=True) + box(b"jp2c", codestream, long=True),
        box(b"jp2c", codestream, open_end=True),
    ):
        np.testing.assert_array_equal(read_picture(head + boxes).values, values)


def of_bits(data: bytes, *components: int) -> bytes:
    """With other depths in the codestream's header."""
    changed = bytearray(data)
    start = data.index(b"\xff\x4f\xff\x51") + 42
    changed[start : start + 3 * len(components) : 3] = bytes(components)
    return bytes(changed)


def with_palette(bits: int) -> bytes:
    """A file of indices 0 and 1 whose palette has those two colors."""
    whole = jpeg2000(ramp(bits, "uint8") % 2, bits)
    codestream = jpeg2000(ramp(bits, "uint8") % 2, bits, "j2k")
    header = box(b"ihdr", struct.pack(">IIHBBBB", 24, 40, 1, bits - 1, 7, 0, 0))
    header += box(b"colr", struct.pack(">BBBI", 1, 0, 0, 16))
    header += box(b"pclr", struct.pack(">HB", 2, 3) + bytes([7, 7, 7]) + bytes([10, 20, 30, 40, 50, 60]))
    header += box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, column) for column in range(3)))
    return whole[: whole.index(b"jp2h") - 4] + box(b"jp2h", header) + box(b"jp2c", codestream)


COLORS = encode(picture(), "JPEG 2000")
WITH_ALPHA = encode(picture().convert("RGBA"), "JPEG 2000")
OPACITY_AT = WITH_ALPHA.index(b"cdef") + 6 + 3 * 6 + 2


def of_kind(kind: int) -> bytes:
    """The last channel is opacity (1), opacity that the colors are multiplied by (2), or unknown (65535)."""
    return WITH_ALPHA[:OPACITY_AT] + struct.pack(">H", kind) + WITH_ALPHA[OPACITY_AT + 2 :]


REFUSED = {
    "signed colors": (jpeg2000(ramp(8, "int8", channels=3), 8), "negative values"),
    "signed colors, deep": (jpeg2000(ramp(16, "int16", channels=3), 16), "negative values"),
    "one signed color": (of_bits(COLORS, 7, 0x87, 7), "negative values"),
    "more than 16 bits": (of_bits(jpeg2000(ramp(16, "uint16"), 16), 23), "24 bits"),
    "more than 16 bits, signed": (of_bits(jpeg2000(ramp(16, "uint16"), 16), 0x80 | 23), "24 bits"),
    "more than 16 bits in a color": (of_bits(COLORS, 7, 7, 17), "18 bits"),
    "colors of 4 bits": (jpeg2000(ramp(4, "uint8", channels=3), 4), "one of 4 bits"),
    "one color of 5 bits": (of_bits(COLORS, 7, 4, 7), "one of 5 bits"),
    "alpha of 1 bit": (of_bits(WITH_ALPHA, 7, 7, 7, 0), "one of 1 bits"),
    "two channels": (jpeg2000(ramp(8, "uint8", channels=2), 8), "2 components is opacity"),
    "two channels, bare": (jpeg2000(ramp(8, "uint8", channels=2), 8, "j2k"), "2 components is opacity"),
    "four channels": (jpeg2000(ramp(8, "uint8", channels=4), 8), "4 components is opacity"),
    "four channels, bare": (encode(picture().convert("RGBA"), "JPEG 2000", no_jp2=True), "4 components is opacity"),
    "alpha that the colors are multiplied by": (of_kind(2), "4 components is opacity"),
    "a fourth channel of no kind": (of_kind(65535), "4 components is opacity"),
    "a palette for 4 bits": (with_palette(4), "4 bits"),
}


@pytest.mark.parametrize(("data", "why"), REFUSED.values(), ids=REFUSED)
def test_what_would_become_other_pixels_is_refused_before_it_is_decoded(data: bytes, why: str) -> None:
    for read in (probe, read_picture):
        with pytest.raises(UnsupportedVariant, match=rf"{why}.*send it as"):
            read(data)


def test_a_last_channel_that_is_said_to_be_opacity_is() -> None:
    np.testing.assert_array_equal(decode_image(of_kind(1)), np.asarray(picture()))


def test_a_palette_for_8_bits_is_seen() -> None:
    assert {tuple(color) for color in decode_image(with_palette(8)).reshape(-1, 3)} == {(10, 20, 30), (40, 50, 60)}


@pytest.mark.parametrize(
    "data",
    [
        COLORS[: COLORS.index(b"jp2c") - 4],
        COLORS[: COLORS.index(b"\xff\x4f\xff\x51") + 42],
    ],
    ids=["no codestream", "a cut header"],
)
def test_headers_that_are_broken_are_damage(data: bytes) -> None:
    with pytest.raises(DamagedImage, match="JPEG 2000"):
        probe(data)


@pytest.mark.parametrize("container", ["JP2", "bare"])
def test_tiles_that_are_not_in_the_file_are_not_made_up(container: str) -> None:
    data = encode(picture(24, 40), "JPEG 2000", tile_size=(16, 16), no_jp2=container == "bare")
    assert decode_image(data).shape == (24, 40, 3)
    last = data.rindex(b"\xff\x90\0\x0a")
    for cut in (data[:last], data[:last] + b"\xff\xd9"):
        with pytest.raises(DamagedImage, match="1 of its tiles"):
            decode_image(cut)
    size = data.index(b"\xff\x4f\xff\x51") + 8
    with pytest.raises(DamagedImage, match="of its tiles"):
        decode_image(data[:size] + struct.pack(">I", 40_000) + data[size + 4 :])
