"""What is sent of a picture that a server would turn is seen there as it is stored, as an evaluation here sees it."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.runtime.images.reading import read_picture
from model.runtime.images.values.intensity import Intensity
from model.runtime.preprocess import Preprocessing, prepare_file
from tests.service.harness import picture
from training.data.annotations.records import ImageRecord
from training.data.loading.samples import UnreadableImage, load_prepared
from training.data.loading.stored_file import stored_file

SHRUNK = Preprocessing(min_size=64, max_size=128, reduced_decoding=True)


def exif(orientation: int, order: str = "<", tags: int = 1) -> bytes:
    """A block in one order of bytes, in which the tag stands so often, behind another."""
    entries = struct.pack(f"{order}HHIHH", 0x0103, 3, 1, 1, 0)
    entries += struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0) * tags
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 1 + tags)
    return b"Exif\0\0" + header + entries + bytes(4)


def saved(image: Image.Image, form: str, block: bytes) -> bytes:
    file = BytesIO()
    image.save(file, form, exif=block, **({"lossless": True} if form == "WEBP" else {}))
    return file.getvalue()


def record(folder: Path, content: bytes, size: tuple[int, int]) -> ImageRecord:
    """Of a picture of this (height, width)."""
    path = folder / "picture"
    path.write_bytes(content)
    return ImageRecord(1, path, size[1], size[0], path.name)


def behind(png: bytes, block: bytes) -> bytes:
    """The PNG with its EXIF behind its pixels."""
    chunk = b"eXIf" + block.removeprefix(b"Exif\0\0")
    packed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:-12] + packed + png[-12:]


COLORS = Image.fromarray(picture(3, (70, 90)))
DEEP = Image.fromarray(np.arange(70 * 90, dtype=np.uint16).reshape(70, 90) * 10)
FILES = [
    *(pytest.param(saved(COLORS, "JPEG", exif(turn)), id=f"JPEG, {turn}") for turn in range(1, 9)),
    pytest.param(saved(COLORS, "JPEG", exif(6, ">")), id="JPEG, the other order of bytes"),
    pytest.param(saved(COLORS, "JPEG", exif(6, tags=2)), id="JPEG, the tag twice"),
    pytest.param(saved(COLORS, "WEBP", exif(6)), id="WebP"),
    pytest.param(saved(COLORS, "PNG", exif(6)), id="PNG"),
    pytest.param(behind(saved(COLORS, "PNG", b""), exif(6)), id="PNG, behind the pixels"),
    pytest.param(saved(DEEP, "PNG", exif(6)), id="PNG of 16 bits"),
    pytest.param(saved(COLORS, "AVIF", exif(6)), id="AVIF, which cannot be marked"),
]


@pytest.mark.parametrize("content", FILES)
def test_a_server_sees_it_as_it_is_stored(content: bytes, tmp_path: Path) -> None:
    sent = read_picture(stored_file(record(tmp_path, content, (70, 90))))
    stored = read_picture(content, upright=False)
    assert sent.values.dtype == stored.values.dtype
    np.testing.assert_array_equal(sent.values, stored.values)


@pytest.mark.parametrize("turn", [1, 3, 6])
def test_a_jpeg_that_shrinks_is_decoded_at_reduced_size_there_too(turn: int, tmp_path: Path) -> None:
    content = saved(Image.fromarray(picture(5, (640, 900))), "JPEG", exif(turn))
    one = record(tmp_path, content, (640, 900))
    here, there = load_prepared(one, SHRUNK), prepare_file(stored_file(one), SHRUNK)
    assert (here.original, here.valid) == (there.original, there.valid) == ((640, 900), (64, 90))
    np.testing.assert_array_equal(here.pixels, there.pixels)


def test_deep_values_are_left_to_the_rule_of_the_server_s_model(tmp_path: Path) -> None:
    one = record(tmp_path, saved(DEEP, "PNG", exif(6)), (70, 90))
    narrow = Preprocessing(min_size=64, max_size=128, intensity=Intensity(mode="min-max"))
    np.testing.assert_array_equal(load_prepared(one, narrow).pixels, prepare_file(stored_file(one), narrow).pixels)


def test_an_upright_picture_is_sent_as_it_is(tmp_path: Path) -> None:
    content = saved(COLORS, "JPEG", exif(1))
    assert stored_file(record(tmp_path, content, (70, 90))) == content


@pytest.mark.parametrize("content", [b"no image", saved(COLORS, "PNG", exif(6))[:200]], ids=["none", "cut short"])
def test_what_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="picture: "):
        stored_file(record(tmp_path, content, (70, 90)))
