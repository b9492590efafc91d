"""Pictures for the image tests, and files of them made with Pillow or by hand."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.limits import FORMATS


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    if format == "WEBP" and "quality" not in options:
        options = {"lossless": True, "exact": True, **options}
    buffer = BytesIO()
    if format == "HEIC":
        pillow_heif.from_pillow(image).save(buffer, **options)
        return buffer.getvalue()
    image.save(buffer, format.replace("JPEG 2000", "JPEG2000"), **options)
    return buffer.getvalue()


def picture(height: int = 24, width: int = 40) -> Image.Image:
    """Smooth enough for JPEG, and different under every flip and turn."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, (x + y) % 64], axis=2).astype(np.uint8))


def tiff(tags: list[tuple[int, int, int]], pixels: bytes = b"") -> bytes:
    """A little-endian TIFF: the pixels at offset 8, then one directory of (tag, type, value)."""
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    start = 8 + len(pixels)
    return b"II*\0" + struct.pack("<I", start) + pixels + struct.pack("<H", len(tags)) + directory + bytes(4)


def tiff_of_size(width: int, height: int, *more: tuple[int, int, int]) -> bytes:
    strips = [] if more else [(273, 4, 8), (279, 4, 4)]
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (277, 3, 1), *strips, *more]
    return tiff(sorted(tags), b"\0" * 4)


def intact_files() -> dict[str, bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8))
    files: dict[str, bytes] = {format: encode(noise, format) for format in FORMATS}
    files["progressive JPEG"] = encode(noise, "JPEG", progressive=True)
    files["lossy WebP"] = encode(noise, "WEBP", quality=80)
    files["LZW TIFF"] = encode(noise, "TIFF", compression="tiff_lzw")
    return files


def ramp(height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: red grows to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 9)], axis=2).astype(np.uint8)
