"""Uploads become the pixels that a person sees, or a typed error; every file here is made with Pillow or by hand."""

from __future__ import annotations

import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from model.runtime.images.decode import decode_image, load_image
from model.runtime.images.errors import DamagedImage, NotAnImage, TooManyPixels
from model.runtime.images.reading import ImageHeader, probe, read_picture
from model.runtime.images.values.intensity import Intensity
from tests.model.runtime.images.pictures import encode, intact_files, picture, tiff

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"
LOSSLESS = ("PNG", "TIFF", "WEBP")


def one_color(mode: str, color: Any) -> Image.Image:
    return Image.new(mode, (9, 5), color)


def palette(color: tuple[int, ...], mode: str = "RGB") -> Image.Image:
    image = one_color("P", 2)
    image.putpalette((0, 0, 0, 255)[: len(mode)] * 2 + color, mode)
    return image


# (what it is, file, the RGB that all of it must have)
COLORS: list[tuple[str, bytes, tuple[int, int, int]]] = [
    ("bilevel, set", encode(one_color("1", 1), "PNG"), (255, 255, 255)),
    ("bilevel, clear", encode(one_color("1", 0), "TIFF"), (0, 0, 0)),
    ("gray", encode(one_color("L", 77), "PNG"), (77, 77, 77)),
    ("gray JPEG", encode(one_color("L", 77), "JPEG"), (77, 77, 77)),
    ("gray, one gray is transparent", encode(one_color("L", 77), "PNG", transparency=77), (255, 255, 255)),
    ("gray, another gray is transparent", encode(one_color("L", 77), "PNG", transparency=78), (77, 77, 77)),
    ("gray and alpha, half", encode(one_color("LA", (0, 128)), "PNG"), (127, 127, 127)),
    ("gray and alpha, opaque", encode(one_color("LA", (50, 255)), "PNG"), (50, 50, 50)),
    ("palette", encode(palette((10, 20, 30)), "PNG"), (10, 20, 30)),
    ("palette in a GIF", encode(palette((10, 20, 30)), "GIF"), (10, 20, 30)),
    ("palette in a BMP", encode(palette((10, 20, 30)), "BMP"), (10, 20, 30)),
    ("palette, the color is transparent", encode(palette((10, 20, 30)), "PNG", transparency=2), (255, 255, 255)),
    ("palette, another color is transparent", encode(palette((10, 20, 30)), "PNG", transparency=1), (10, 20, 30)),
    ("palette with an alpha for each color", encode(palette((0, 0, 0, 128), "RGBA"), "PNG"), (127, 127, 127)),
    ("GIF, the color is transparent", encode(palette((10, 20, 30)), "GIF", transparency=2), (255, 255, 255)),
    ("RGB, the color is transparent", encode(one_color("RGB", (1, 2, 3)), "PNG", transparency=(1, 2, 3)), (255,) * 3),
    ("RGB TIFF, LZW", encode(one_color("RGB", (1, 2, 3)), "TIFF", compression="tiff_lzw"), (1, 2, 3)),
    ("RGB BMP", encode(one_color("RGB", (1, 2, 3)), "BMP"), (1, 2, 3)),
    ("RGBA, opaque", encode(one_color("RGBA", (1, 2, 3, 255)), "PNG"), (1, 2, 3)),
    ("RGBA, fully transparent: what it hides stays hidden", encode(one_color("RGBA", (1, 2, 3, 0)), "PNG"), (255,) * 3),
    ("RGBA WebP, half transparent", encode(one_color("RGBA", (255, 0, 0, 128)), "WEBP"), (255, 127, 127)),
    ("RGBA TIFF, half transparent", encode(one_color("RGBA", (255, 0, 0, 128)), "TIFF"), (255, 127, 127)),
    ("16-bit PNG, black", encode(one_color("I;16", 0), "PNG"), (0, 0, 0)),
    ("16-bit PNG, middle: not clipped", encode(one_color("I;16", 128 * 257), "PNG"), (128, 128, 128)),
    ("16-bit PNG, white", encode(one_color("I;16", 65535), "PNG"), (255, 255, 255)),
    ("16-bit PNG, one gray is transparent", encode(one_color("I;16", 300), "PNG", transparency=300), (255, 255, 255)),
    ("16-bit TIFF, little endian", encode(one_color("I;16", 100 * 257), "TIFF"), (100, 100, 100)),
    ("16-bit TIFF, big endian", encode(one_color("I;16B", 100 * 257), "TIFF"), (100, 100, 100)),
    ("32-bit TIFF holding 16 bits", encode(one_color("I", 100 * 257), "TIFF"), (100, 100, 100)),
    ("float TIFF in 0..1", encode(one_color("F", 0.5), "TIFF"), (128, 128, 128)),
    ("float TIFF, all the same", encode(one_color("F", 15.0), "TIFF"), (255, 255, 255)),
    ("CMYK JPEG as Adobe writes it: inverted", encode(one_color("CMYK", (255, 0, 0, 0)), "JPEG"), (0, 255, 255)),
    ("CMYK TIFF: not inverted", encode(one_color("CMYK", (255, 0, 0, 0)), "TIFF"), (0, 255, 255)),
    ("YCbCr TIFF", encode(one_color("YCbCr", (76, 85, 255)), "TIFF"), (254, 0, 0)),
    ("L*a*b* TIFF, white", encode(one_color("LAB", (255, 128, 128)), "TIFF"), (255, 255, 255)),
]


@pytest.mark.parametrize(("data", "color"), [row[1:] for row in COLORS], ids=[row[0] for row in COLORS])
def test_every_kind_of_color(data: bytes, color: tuple[int, int, int]) -> None:
    image = decode_image(data)
    assert image.dtype == np.uint8
    assert image.shape == (5, 9, 3)
    assert np.abs(image.astype(int) - color).max() <= 1


def test_16_bits_use_the_whole_range_in_even_steps() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = decode_image(encode(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(image[..., 1], np.rint(values / 257))


def test_12_bit_tiff_uses_the_whole_range() -> None:
    packed = bytes([0xFF, 0xF8, 0x00])  # 4095 and 2048, twelve bits each
    tags = [(256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (279, 4, 3)]
    image = decode_image(tiff(tags, packed))
    np.testing.assert_array_equal(image[..., 0], [[255, 128]])


def test_16_bit_tiff_where_white_is_zero() -> None:
    tags = [(256, 3, 1), (257, 3, 1), (258, 3, 16), (259, 3, 1), (262, 3, 0), (273, 4, 8), (277, 3, 1), (279, 4, 2)]
    assert decode_image(tiff(tags, b"\0\0")).tolist() == [[[255, 255, 255]]]


def test_negative_values_are_seen() -> None:
    floats = Image.fromarray(np.array([[-31, 0, 32]], np.float32))
    integers = Image.fromarray(np.array([[-(2**31), 0, 2**31 - 1]], np.int32))
    for image in (floats, integers):
        assert np.abs(decode_image(encode(image, "TIFF"))[0, :, 2] - [0.0, 126, 255]).max() <= 2
    holes = Image.fromarray(np.array([[-31, np.nan, 0, np.inf, 32]], np.float32))
    assert decode_image(encode(holes, "TIFF"))[0, [1, 3], 2].tolist() == [0, 255]


def test_another_intensity_may_be_asked_for() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256) // 16
    data = encode(Image.fromarray(values), "PNG")
    assert decode_image(data).max() == 255
    assert decode_image(data, intensity=Intensity(mode="full-range")).max() == 16
    assert decode_image(data, intensity=Intensity(mode="full-range", high=8190)).max() == 128


def test_first_picture_of_many() -> None:
    first, second = picture(), picture().transpose(Image.Transpose.ROTATE_180)
    for format in ("PNG", "TIFF", "WEBP"):
        data = encode(first, format, save_all=True, append_images=[second])
        np.testing.assert_array_equal(decode_image(data), np.asarray(first), err_msg=format)
    gif = encode(first.quantize(64), "GIF", save_all=True, append_images=[second.quantize(64)])
    np.testing.assert_array_equal(decode_image(gif), np.asarray(first.quantize(64).convert("RGB")))
    cameras = encode(first, "MPO", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode_image(cameras), np.asarray(Image.open(BytesIO(encode(first, "JPEG")))))
    assert probe(cameras).format == "JPEG"


STORED_AS = {  # EXIF orientation -> how the upright picture is turned for storing
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("format", ["JPEG", *LOSSLESS])
@pytest.mark.parametrize("orientation", STORED_AS)
def test_exif_orientation(orientation: int, format: str) -> None:
    upright = picture()
    turn = STORED_AS[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, format, exif=exif)
    image = decode_image(data)
    assert image.shape == (24, 40, 3)
    error = np.abs(image.astype(int) - np.asarray(upright))
    assert error.mean() < 4 if format == "JPEG" else error.max() == 0
    assert probe(data) == ImageHeader(format, 40, 24)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_orientation_in_every_mode(mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = picture(24, 24).convert("I" if mode == "I;16" else mode).convert(mode)
    plain, turned = decode_image(encode(stored, "PNG")), decode_image(encode(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))


@pytest.mark.parametrize("block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")
def test_broken_exif_does_not_break_the_picture(block: bytes) -> None:
    assert decode_image(encode(picture(), "JPEG", exif=block)).shape == (24, 40, 3)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_out_of_range_is_none(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(data), np.asarray(picture()))


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
def test_orientation_that_stands_only_in_xmp_turns_nothing(format: str) -> None:
    """Browsers and viewers turn by EXIF alone."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    options: dict[str, Any] = {"xmp": xmp}
    if format == "PNG":
        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    data = encode(picture(), format, **options)
    assert b"Orientation" in data
    np.testing.assert_array_equal(decode_image(data), decode_image(encode(picture(), format)))
    assert (probe(data).width, probe(data).height) == (40, 24)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_jpeg_2000(mode: str) -> None:
    if mode == "I;16":
        values = np.random.default_rng(0).integers(0, 65536, (24, 40)).astype(np.uint16)
        np.testing.assert_array_equal(read_picture(encode(Image.fromarray(values), "JPEG 2000")).values, values)
        return
    image = picture().convert(mode)
    if mode.endswith("A"):
        image.putalpha(picture().getchannel(0))
    np.testing.assert_array_equal(decode_image(encode(image, "JPEG 2000")), decode_image(encode(image, "PNG")))
    if not mode.endswith("A"):  # a bare codestream cannot say what its components are
        bare = encode(image, "JPEG 2000", no_jp2=True)
        np.testing.assert_array_equal(decode_image(bare), decode_image(encode(image, "PNG")))


@pytest.mark.parametrize("orientation", STORED_AS)
def test_avif(orientation: int) -> None:
    turn = STORED_AS[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture(48, 80) if turn is None else picture(48, 80).transpose(turn)
    data = encode(stored, "AVIF", quality=100, exif=exif)
    assert np.abs(decode_image(data).astype(int) - np.asarray(picture(48, 80))).mean() < 4
    assert probe(data) == ImageHeader("AVIF", 80, 48)


def png_with_late_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    early = encode(picture(), "PNG", exif=exif)
    at = early.index(b"eXIf") - 4
    length = struct.unpack(">I", early[at : at + 4])[0] + 12
    return early[:at] + early[at + length : -12] + early[at : at + length] + early[-12:]


def test_png_orientation_behind_the_pixels() -> None:
    data = png_with_late_exif(6)
    np.testing.assert_array_equal(decode_image(data), np.rot90(np.asarray(picture()), -1))
    assert probe(data).width == 40  # as documented: the header does not know


def test_load_image_names_the_file(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(encode(picture(), "PNG"))
    bad.write_bytes(b"no")
    np.testing.assert_array_equal(load_image(good), np.asarray(picture()))
    with pytest.raises(NotAnImage) as caught:
        load_image(bad)
    assert str(bad) in caught.value.__notes__[0]


def test_many_threads_at_once() -> None:
    files = list(intact_files().values()) * 8
    expected = [decode_image(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(expected, pool.map(decode_image, files), strict=True):
            np.testing.assert_array_equal(one, other)


def test_no_other_plugin_runs_and_pillow_stays_as_it_was() -> None:
    program = """
import sys
import zlib
from PIL import Image, ImageFile
before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
from model.runtime.images.decode import decode_image
assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == before
decode_image(sys.stdin.buffer.read())
print(*sorted(name.split(".")[1] for name in sys.modules if name.startswith("PIL.") and name.endswith("Plugin")))
"""
    cameras = encode(picture(), "MPO", save_all=True, append_images=[picture()])
    done = subprocess.run([sys.executable, "-c", program], input=cameras, capture_output=True, check=True)
    allowed = {f"{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "Tiff", "WebP")}
    assert set(done.stdout.decode().split()) <= allowed, done.stderr.decode()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development machine's sample images are not here")
def test_sample_images() -> None:
    def pixels(name: str) -> NDArray[np.int64]:
        image = load_image(SHARED / name)
        step = 1 if len(image) < 500 else 16
        return image[::step, ::step].astype(np.int64)

    upright = pixels("exif/Landscape_1.jpg")
    for orientation in (3, 6):
        assert np.abs(pixels(f"exif/Landscape_{orientation}.jpg") - upright).mean() < 8
    assert np.abs(pixels("modes/rgb_pytorch16.png") - pixels("modes/rgb_pytorch.png")).max() <= 1
    assert np.abs(pixels("modes/palette_pytorch.png") - pixels("modes/rgbalpha_pytorch.png")).mean() < 20
    for name in ("truncated.jpg", "truncated.png", "truncated_image.png", "corrupt-header.jpg"):
        with pytest.raises(DamagedImage):
            load_image(SHARED / "damaged" / name)
    with pytest.raises(TooManyPixels):
        load_image(SHARED / "damaged/decompression_bomb.gif")
