"""The header of a file, of which no more is read than that takes."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.runtime.images.errors import ImageError
from model.runtime.images.limits import ImageLimits
from model.runtime.images.reading import probe, probe_file

LIMITS = ImageLimits(max_pixels=500_000_000)


def encoded(form: str, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    with BytesIO() as stream:
        Image.fromarray(pixels).save(stream, form, **options)
        return stream.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_a_file_says_what_its_bytes_do(tmp_path: Path, form: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(form))
    assert probe_file(path, LIMITS) == probe(path.read_bytes(), LIMITS)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP"])
def test_what_lies_behind_the_header_is_not_read(tmp_path: Path, form: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(form))
    os.truncate(path, 1 << 40)  # a hole on the disk, which does not fit into memory
    header = probe_file(path, LIMITS)
    assert (header.width, header.height) == (400, 300)


def test_a_header_behind_a_large_profile_is_found(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded("JPEG", icc_profile=bytes(300_000)))
    assert probe_file(path, LIMITS).width == 400


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\nbroken", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_said_as_of_its_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(ImageError) as of_file:
        probe_file(path, LIMITS)
    with pytest.raises(ImageError) as of_bytes:
        probe(content, LIMITS)
    assert (type(of_file.value), str(of_file.value)) == (type(of_bytes.value), str(of_bytes.value))
