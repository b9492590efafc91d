"""What is no image, or too large, damaged or of another format, is refused by type, before it costs anything."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from model.runtime.images.decode import decode_image
from model.runtime.images.errors import (
    DamagedImage,
    ImageError,
    NotAnImage,
    TooManyPixels,
    UnsupportedFormat,
    UnsupportedVariant,
)
from model.runtime.images.limits import ImageLimits
from model.runtime.images.reading import probe
from tests.model.runtime.images.pictures import encode, intact_files, picture, tiff_of_size


def patched(data: bytes, offset: int, replacement: bytes) -> bytes:
    return data[:offset] + replacement + data[offset + len(replacement) :]


def bombs() -> dict[str, bytes]:
    """Small files whose headers announce billions of pixels."""
    small = picture()
    png = patched(encode(small, "PNG"), 16, struct.pack(">II", 60000, 60000))
    header = struct.pack(">I", zlib.crc32(png[12:29]))
    jpeg = encode(small, "JPEG")
    # The WebP ones stay below Pillow's own limit: 16384 x 9000.
    vp8x = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\0" + b"\x27\x23\0"
    frame = encode(small, "WEBP", quality=80)[12:]
    avif, codestream = encode(small, "AVIF"), encode(small, "JPEG 2000", no_jp2=True)
    return {
        "AVIF": patched(avif, avif.index(b"ispe") + 8, struct.pack(">II", 16000, 9000)),
        "JPEG 2000": patched(codestream, 8, struct.pack(">II", 60000, 60000)),
        "PNG": patched(png, 29, header),
        "JPEG": patched(jpeg, jpeg.index(b"\xff\xc0") + 5, struct.pack(">HH", 65500, 65500)),
        "GIF": patched(encode(small, "GIF"), 6, struct.pack("<HH", 65535, 65535)),
        "GIF frame larger than its screen": b"GIF89a\1\0\1\0\x80\0\0"
        + bytes(6)
        + b",\0\0\0\0\xff\xff\xff\xff\0\2\1\0\0;",
        "GIF frame that reaches beyond its screen": b"GIF89a\1\0\1\0\0\0\0"
        + b"!\xf9\4\0\0\0\0\0,\xf0\xff\xf0\xff\1\0\1\0\0\2\1\0\0;",
        "BMP": patched(encode(small, "BMP"), 18, struct.pack("<ii", 60000, 60000)),
        "WebP, extended": b"RIFF" + struct.pack("<I", 4 + len(vp8x) + len(frame)) + b"WEBP" + vp8x + frame,
        "WebP, lossy": patched(encode(small, "WEBP", quality=80), 26, struct.pack("<HH", 16383, 9000)),
        "WebP, lossless": patched(encode(small, "WEBP"), 21, struct.pack("<I", 16383 | 8999 << 14)),
        "TIFF": tiff_of_size(60000, 60000),
        "TIFF with one huge tile": tiff_of_size(2, 2, (322, 4, 48000), (323, 4, 48000), (324, 4, 8), (325, 4, 4)),
    }


@pytest.mark.parametrize("kind", bombs())
def test_bombs_are_refused_from_the_header(kind: str) -> None:
    for read in (probe, decode_image):
        with pytest.raises(TooManyPixels, match=r"\d+ x \d+ = \d+ pixels and at most \d+ are accepted"):
            read(bombs()[kind])


def test_bombs_cost_no_memory(tmp_path: Path) -> None:
    """Decodes them in a process that may grow by 64 MiB only; the smallest would take 268 MB."""
    for index, data in enumerate(bombs().values()):
        (tmp_path / str(index)).write_bytes(data)
    program = """
import pathlib, resource, sys
from model.runtime.images.decode import decode_image
from model.runtime.images.errors import TooManyPixels
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
for path in pathlib.Path(sys.argv[1]).iterdir():
    try:
        decode_image(path.read_bytes())
    except TooManyPixels:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused"] * len(bombs()), done.stderr


def test_pixel_limit_is_inclusive() -> None:
    data = encode(picture(), "PNG")
    assert decode_image(data, ImageLimits(max_pixels=24 * 40)).shape == (24, 40, 3)
    with pytest.raises(TooManyPixels, match=r"40 x 24 = 960 pixels and at most 959"):
        decode_image(data, ImageLimits(max_pixels=24 * 40 - 1))


NOT_IMAGES = {
    "empty": b"",
    "one byte": b"\x89",
    "text": b"hello, I am a picture",
    "web page": b"<!doctype html><html><body>404</body></html>",
    "zip": b"PK\x03\x04" + bytes(40),
    "video": b"\0\0\0\x20ftypisom" + bytes(40),
    "sound in RIFF": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("data", NOT_IMAGES.values(), ids=NOT_IMAGES)
def test_not_an_image(data: bytes) -> None:
    for read in (probe, decode_image):
        with pytest.raises(NotAnImage):
            read(data)


OTHERS: dict[str, tuple[bytes, str]] = {
    "PNM": (encode(picture(), "PPM"), "PNM"),
    "ICO": (encode(picture(32, 32), "ICO"), "ICO"),
    "Photoshop": (b"8BPS\0\1" + bytes(40), "PSD"),
    "DICOM": (bytes(128) + b"DICM" + bytes(40), "DICOM"),
    "PDF": (encode(picture(), "PDF"), "PDF"),
    "EPS": (encode(picture(), "EPS"), "EPS"),
    "SVG": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
}


@pytest.mark.parametrize(("data", "name"), OTHERS.values(), ids=OTHERS)
def test_other_formats_are_named(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=f"^{name} is not accepted here; send one of JPEG, PNG") as caught:
        decode_image(data)
    assert caught.value.format == name


def test_heic_names_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(picture(48, 80), "HEIC", quality=100)
    assert np.abs(decode_image(data).astype(int) - np.asarray(picture(48, 80))).mean() < 4
    assert probe(data).format == "HEIC"
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    with pytest.raises(UnsupportedVariant, match=r"\.venv/bin/pip install '\.\[heif\]'"):
        decode_image(data)


def test_formats_can_be_limited() -> None:
    gif = encode(picture().quantize(8), "GIF")
    for format in ("AVIF", "JPEG 2000", "HEIC"):
        with pytest.raises(UnsupportedFormat, match=f"{format} is not accepted here"):
            decode_image(encode(picture(), format), ImageLimits(formats=("JPEG", "PNG")))
    with pytest.raises(UnsupportedFormat, match="GIF is not accepted here; send one of JPEG, PNG"):
        decode_image(gif, ImageLimits(formats=("JPEG", "PNG")))


@pytest.mark.parametrize("kind", intact_files())
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_cut_file_is_never_half_a_picture(kind: str) -> None:
    data = intact_files()[kind]
    whole = decode_image(data)
    for length in range(1, len(data), 7):
        try:
            image = decode_image(data[:length])
        except ImageError:
            continue
        assert length > len(data) - 25, f"{length} of {len(data)} bytes were taken for the picture"
        np.testing.assert_array_equal(image, whole)


def test_damage_says_what_and_where() -> None:
    with pytest.raises(DamagedImage, match="the JPEG image cannot be decoded: image file is truncated"):
        decode_image(encode(picture(), "JPEG")[:-30])
    with pytest.raises(DamagedImage, match="the PNG image's header cannot be read"):
        decode_image(b"\x89PNG\r\n\x1a\n" + bytes(40))
    tile_of_text = tiff_of_size(2, 2, (322, 2, 0x2A2A2A), (323, 4, 16), (259, 3, 5))
    with pytest.raises(DamagedImage, match="the TIFF image's header cannot be read"):
        decode_image(tile_of_text)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_random_damage_raises_nothing_else() -> None:
    random = np.random.default_rng(0)
    for data in intact_files().values():
        for _ in range(60):
            bytes_ = bytearray(data)
            for position in random.integers(0, min(len(data), 300), 3):
                bytes_[position] = random.integers(0, 256)
            try:
                image = decode_image(bytes(bytes_), ImageLimits(max_pixels=100_000))
            except ImageError:
                continue
            assert image.ndim == 3
