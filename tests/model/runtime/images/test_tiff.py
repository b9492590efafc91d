"""TIFFs of every layout, depth and compression give the values that were written, as a second reader sees them."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.decode import decode_image
from model.runtime.images.reading import probe, read_picture
from tests.model.runtime.images.pictures import encode, picture, tiff

RANDOM = np.random.default_rng(7)
HEIGHT, WIDTH = 37, 53


def written(values: NDArray[Any], **options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def random(dtype: str, *shape: int) -> NDArray[Any]:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return RANDOM.normal(0, 100, shape).astype(kind)
    limits = np.iinfo(kind)
    return RANDOM.integers(limits.min, limits.max, shape, kind, endpoint=True)


def shown(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")


@pytest.mark.parametrize("layout", [{}, {"byteorder": ">"}, {"bigtiff": True}, {"bigtiff": True, "byteorder": ">"}])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_keeps_its_values(dtype: str, layout: dict[str, Any]) -> None:
    for compression in (None, "zlib"):
        for tile in (None, (16, 32)):
            values = random(dtype, HEIGHT, WIDTH)
            data = written(values, photometric="minisblack", compression=compression, tile=tile, **layout)
            decoded = read_picture(data)
            np.testing.assert_array_equal(decoded.values, values)
            assert decoded.values.dtype == values.dtype
            assert decoded.values.dtype.isnative
            assert (probe(data).width, probe(data).height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("rows", [1, 8, 64])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzma", "packbits"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_colors_in_every_layout(dtype: str, compression: str | None, planar: str, rows: int) -> None:
    values = random(dtype, HEIGHT, WIDTH, 3)
    stored = values if planar == "contig" else np.ascontiguousarray(values.transpose(2, 0, 1))
    for options in ({"rowsperstrip": rows}, {"tile": (16, 16)}):
        data = written(stored, photometric="rgb", planarconfig=planar, compression=compression, **options)
        np.testing.assert_array_equal(read_picture(data).values, values)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F"])
def test_pillows_own_files_look_as_pillow_shows_them(mode: str, compression: str) -> None:
    gray = Image.fromarray(random("uint16", HEIGHT, WIDTH).astype(np.int32))
    image = gray.convert(mode) if mode in ("I;16", "I", "F") else picture(HEIGHT, WIDTH).convert("RGB")
    if mode == "LAB":
        image = Image.merge("LAB", picture(HEIGHT, WIDTH).split())
    elif mode not in ("I;16", "I", "F"):
        image = image.convert(mode)
    data = encode(image, "TIFF", compression=compression)
    decoded = read_picture(data).values
    if mode in ("I;16", "I", "F"):
        np.testing.assert_array_equal(decoded, np.asarray(image))
    elif mode not in ("LA", "RGBA", "LAB"):  # these are laid over white, or go by a profile
        np.testing.assert_array_equal(decode_image(data), shown(data))
    else:
        np.testing.assert_array_equal(decode_image(data), decode_image(encode(image, "TIFF")))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "float16", "float32", "float64"])
def test_predictors(dtype: str, order: Any, planar: str) -> None:
    """Differences of neighbors, whose sums wrap around, and of the bytes of floats."""
    values = random(dtype, HEIGHT, WIDTH, 3)
    stored = values if planar == "contig" else np.ascontiguousarray(values.transpose(2, 0, 1))
    for compression in ("lzw", "zlib"):
        for tile in (None, (16, 16)):
            options = {"photometric": "rgb", "planarconfig": planar, "byteorder": order, "tile": tile}
            data = written(stored, predictor=True, compression=compression, **options)
            np.testing.assert_array_equal(read_picture(data).values, values)


def gray_bits(bits: int, rows: list[list[int]], photometric: int = 1) -> bytes:
    packed = b""
    for row in rows if bits not in (16, 32) else []:
        digits = "".join(f"{value:0{bits}b}" for value in row)
        digits += "0" * (-len(digits) % 8)
        packed += bytes(int(digits[at : at + 8], 2) for at in range(0, len(digits), 8))
    if bits in (16, 32):  # in the file's byte order
        packed = np.array(rows, f"<u{bits // 8}").tobytes()
    packed += bytes(len(packed) % 2)
    numbers = ((256, len(rows[0])), (257, len(rows)), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1))
    return tiff([(tag, 3, value) for tag, value in (*numbers, (278, len(rows)), (279, len(packed)))], packed)


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 31, 32])
def test_any_number_of_bits(bits: int, photometric: int) -> None:
    top = 2**bits - 1
    rows = [[0, top, top // 2], [1, top // 3, top - 1]]
    decoded = read_picture(gray_bits(bits, rows, photometric))
    expected = np.array(rows, np.int64) if photometric else top - np.array(rows, np.int64)
    if bits < 8:
        expected = expected * 255 // top
    np.testing.assert_array_equal(decoded.values, expected)
    assert decoded.significant_bits == (bits if bits > 8 and bits not in (16, 32) else None)


def test_signed_values_do_not_wrap_around() -> None:
    ramp = np.arange(-128, 128, 51, np.int16)[None].astype(np.int8)
    tones = decode_image(written(ramp, photometric="minisblack"))[0, :, 0].astype(int)
    assert (np.diff(tones) > 0).all()
    steep = (np.arange(6, dtype=np.uint32) * 858_993_459)[None]
    tones = decode_image(written(steep, photometric="minisblack"))[0, :, 0].astype(int)
    assert (np.diff(tones) > 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_deep_values(orientation: int) -> None:
    gray, deep = (random(dtype, 4, 6) for dtype in ("uint8", "uint16"))
    tag = [(274, 3, 1, orientation, True)]
    for values in (gray, deep):
        data = written(values, photometric="minisblack", extratags=tag)
        expected = {
            1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1], 5: values.T,
            6: np.rot90(values, -1), 7: np.rot90(values, 2).T, 8: np.rot90(values),
        }[orientation]  # fmt: skip
        np.testing.assert_array_equal(read_picture(data).values, expected)
        np.testing.assert_array_equal(read_picture(data, upright=False).values, expected)
        assert (probe(data).height, probe(data).width) == expected.shape


def test_orientation_that_stands_only_in_xmp_turns_nothing() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encode(picture(), "TIFF", tiffinfo={700: xmp})
    np.testing.assert_array_equal(decode_image(data), np.asarray(picture()))
    assert (probe(data).width, probe(data).height) == (40, 24)


def test_alpha_of_deep_values() -> None:
    pixels = np.array([[[0, 0, 0, 0], [0, 0, 0, 32768], [257, 0, 0, 65535]]], np.uint16)
    decoded = read_picture(written(pixels, photometric="rgb", extrasamples=["unassalpha"]))
    assert decoded.values.tolist() == [[[65535] * 3, [32767] * 3, [257, 0, 0]]]
    assert decoded.transparent is not None
    assert decoded.transparent.tolist() == [[True, False, False]]
    opaque = np.full((2, 2, 4), 65535, np.uint16)
    opaque[..., 0] = 5
    assert read_picture(written(opaque, photometric="rgb", extrasamples=["assocalpha"])).transparent is None


def test_what_a_file_says_of_its_range() -> None:
    values = random("uint16", 4, 5)
    stated = [(340, "H", 1, 100, True), (341, "H", 1, 3000, True)]
    assert read_picture(written(values, extratags=stated, photometric="minisblack")).declared_range == (100, 3000)
    assert read_picture(written(values, imagej=True, metadata={"min": 5.0, "max": 900.0})).declared_range == (5, 900)
    assert read_picture(written(values, ome=True, metadata={"SignificantBits": 12})).significant_bits == 12
    assert read_picture(written(values)).declared_range is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("extra", [("unassalpha", "unspecified"), ("unspecified", "unassalpha")], ids=" then ".join)
def test_opacity_is_seen_wherever_it_stands_among_the_extra_samples(dtype: type, extra: tuple[str, str]) -> None:
    largest = np.iinfo(dtype).max
    values = np.full((4, 6, 5), largest // 3, dtype)
    values[..., 3 + extra.index("unassalpha")] = 0
    buffer = BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb", planarconfig="contig", extrasamples=extra)
    assert (decode_image(buffer.getvalue()) == 255).all(), "nothing is seen of it, so it is white"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_predictor_is_undone_whatever_the_compression(dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (9, 14, 3)).astype(dtype)
    read = []
    for compression in ("packbits", "zlib", "lzw"):
        buffer = BytesIO()
        tifffile.imwrite(buffer, values, photometric="rgb", compression=compression, predictor=2)
        read.append(read_picture(buffer.getvalue()).values)
    assert all(np.array_equal(one, values) for one in read)
