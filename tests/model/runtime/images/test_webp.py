"""WebPs whose header says less than their pixels: alpha, and what an animation's first frame does not cover."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from model.runtime.images.decode import decode_image
from model.runtime.images.errors import DamagedImage, UnsupportedVariant
from model.runtime.images.reading import probe
from tests.model.runtime.images.pictures import encode, picture

ANIMATION, ALPHA = 2, 16
NO_BLENDING, DISPOSED = 2, 1
BLUE = 0xFF0000FF
WIDTH, HEIGHT = 40, 24
OPAQUE = picture()
SEE_THROUGH = OPAQUE.copy()
SEE_THROUGH.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))))
LOSSLESS, LOSSY = 0, 90
"""The latter a quality."""


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def number(value: int) -> bytes:
    return value.to_bytes(3, "little")


def pixels(image: Image.Image, quality: int) -> bytes:
    """The chunks of alpha and pixels."""
    data = encode(image, "WEBP", quality=quality) if quality else encode(image, "WEBP")
    return data[30:] if data[12:16] == b"VP8X" else data[12:]


def webp(flags: int, *chunks: bytes) -> bytes:
    body = b"WEBP" + chunk(b"VP8X", bytes([flags, 0, 0, 0]) + number(WIDTH - 1) + number(HEIGHT - 1)) + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animation(
    flags: int, image: Image.Image, quality: int, at: tuple[int, int] = (0, 0), *, frame: int = 0, more: bytes = b""
) -> bytes:
    """Of a first frame at (left, top), and whatever frames follow."""
    place = number(at[0] // 2) + number(at[1] // 2) + number(image.width - 1) + number(image.height - 1) + number(100)
    first = chunk(b"ANMF", place + bytes([frame]) + pixels(image, quality))
    return webp(flags | ANIMATION, chunk(b"ANIM", struct.pack("<IH", BLUE, 0)), first, more)


@pytest.mark.parametrize("quality", [LOSSLESS, LOSSY], ids=["lossless", "lossy"])
@pytest.mark.parametrize("frame", [0, NO_BLENDING, DISPOSED])
@pytest.mark.parametrize("flags", [0, ALPHA], ids=["no alpha announced", "alpha announced"])
@pytest.mark.parametrize("size", [(10, 8), (40, 8), (10, 24), (40, 24)])
def test_what_the_first_frame_does_not_cover_is_white(
    size: tuple[int, int], flags: int, frame: int, quality: int
) -> None:
    at = (4, 6) if size == (10, 8) else (0, 0)
    box = (*at, at[0] + size[0], at[1] + size[1])
    data = animation(flags, OPAQUE.crop(box), quality, at, frame=frame)
    expected = Image.new("RGB", OPAQUE.size, "white")
    expected.paste(OPAQUE.crop(box), box)
    seen = decode_image(data)
    assert np.abs(seen.astype(int) - np.asarray(expected)).mean() < (4 if quality else 0.001)
    outside = np.ones((HEIGHT, WIDTH), bool)
    outside[box[1] : box[3], box[0] : box[2]] = False
    assert (seen[outside] == 255).all()
    assert (probe(data).width, probe(data).height) == (WIDTH, HEIGHT)


LATER = chunk(b"ANMF", bytes(6) + number(WIDTH - 1) + number(HEIGHT - 1) + number(100) + b"\0" + pixels(SEE_THROUGH, 0))
DENIED = {
    "a lossless picture": webp(0, pixels(SEE_THROUGH, LOSSLESS)),
    "behind a profile of odd length": webp(32, chunk(b"ICCP", b"odd"), pixels(SEE_THROUGH, LOSSLESS)),
    "a lossless frame": animation(0, SEE_THROUGH, LOSSLESS),
    "a lossy frame": animation(0, SEE_THROUGH, LOSSY),
    "a small frame": animation(0, SEE_THROUGH.crop((0, 0, 10, 10)), LOSSLESS, (4, 6)),
    "a frame that is not blended": animation(0, SEE_THROUGH, LOSSY, frame=NO_BLENDING),
}


@pytest.mark.parametrize("data", DENIED.values(), ids=DENIED)
def test_alpha_that_the_header_denies_is_refused(data: bytes) -> None:
    for read in (probe, decode_image):
        with pytest.raises(UnsupportedVariant, match=r"nothing is transparent.*send it as a PNG"):
            read(data)


ANNOUNCED = {
    "a lossless picture": webp(ALPHA, pixels(SEE_THROUGH, LOSSLESS)),
    "a lossless frame": animation(ALPHA, SEE_THROUGH, LOSSLESS),
    "no header to say so": encode(SEE_THROUGH, "WEBP"),
}


@pytest.mark.parametrize("data", ANNOUNCED.values(), ids=ANNOUNCED)
def test_alpha_that_is_announced_lies_on_white(data: bytes) -> None:
    page = Image.new("RGB", OPAQUE.size, "white")
    page.paste(SEE_THROUGH, mask=SEE_THROUGH)
    assert np.abs(decode_image(data).astype(int) - np.asarray(page)).max() <= 1


def test_alpha_of_later_frames_does_not_matter() -> None:
    np.testing.assert_array_equal(decode_image(animation(0, OPAQUE, LOSSLESS, more=LATER)), np.asarray(OPAQUE))


def test_alpha_beside_a_lossy_picture_that_has_none_is_passed_over() -> None:
    """As browsers do."""
    seen = decode_image(webp(0, pixels(SEE_THROUGH, LOSSY)))
    assert np.abs(seen[:, 20:].astype(int) - np.asarray(OPAQUE)[:, 20:]).mean() < 8


@pytest.mark.parametrize("size", [20, 21, 29, 30, 37, 45, 60, 70, 84])
def test_one_that_is_cut_short_is_damage(size: int) -> None:
    with pytest.raises(DamagedImage):
        decode_image(animation(0, OPAQUE, LOSSLESS)[:size])
