"""JPEGs that shrink far are decoded at reduced size: the same picture at the same place, and the same faults found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.decode import decode_image
from model.runtime.images.formats import jpeg
from model.runtime.images.picture import Size
from model.runtime.images.reading import read_picture
from tests.model.runtime.images.pictures import encode

# (why, stored size, target, by what the sides are divided), sizes as (height, width)
DIVISORS = [
    ("as large as the target", (200, 300), (200, 300), 1),
    ("enlarged", (200, 300), (400, 600), 1),
    ("half", (200, 300), (100, 150), 1),
    ("a little less than a quarter", (399, 600), (100, 150), 1),
    ("a quarter", (400, 600), (100, 150), 2),
    ("a fifth", (500, 750), (100, 150), 2),
    ("an eighth", (800, 1200), (100, 150), 4),
    ("a sixteenth", (1600, 2400), (100, 150), 8),
    ("no more than an eighth is decoded", (6400, 9600), (100, 150), 8),
    ("one side shrinks less, by rounding", (801, 1599), (100, 200), 2),
    ("a thread", (1, 9000), (1, 1333), 1),
    ("a single pixel", (1, 1), (1, 1), 1),
]


@pytest.mark.parametrize(
    ("size", "target", "expected"), [row[1:] for row in DIVISORS], ids=[row[0] for row in DIVISORS]
)
def test_divisor(size: Size, target: Size, expected: int) -> None:
    data = encode(Image.new("RGB", (8, 8)), "JPEG")
    assert jpeg.divisor(data, size, target) == expected
    assert jpeg.divisor(data, size[::-1], target[::-1]) == expected


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
def test_only_frames_with_huffman_coded_frequencies_are_reduced(options: dict[str, Any]) -> None:
    data = encode(Image.new("RGB", (8, 8)), "JPEG", exif=bytes(99), **options)
    assert jpeg.divisor(data, (1600, 1600), (100, 100)) == 8
    header = 0xC2 if options else 0xC0
    for lossless_or_arithmetic in (0xC3, 0xC9, 0xCA, 0xCB):
        other = data.replace(bytes([0xFF, header]), bytes([0xFF, lossless_or_arithmetic]), 1)
        assert jpeg.divisor(other, (1600, 1600), (100, 100)) == 1
    for no_jpeg in (b"", data[:30], data[2:], encode(Image.new("RGB", (8, 8)), "PNG"), b"\xff\xd8" + bytes(99)):
        assert jpeg.divisor(no_jpeg, (1600, 1600), (100, 100)) == 1


def rectangle(size: Size, top: int, left: int, bottom: int, right: int) -> Image.Image:
    values = np.full(size, 20, np.uint8)
    values[top:bottom, left:right] = 220
    return Image.fromarray(values)


def center(values: NDArray[np.uint8]) -> tuple[float, float]:
    """(y, x) of what is brighter than the ground, as shares of the picture's sides."""
    gray = values.astype(float) if values.ndim == 2 else values.astype(float).mean(axis=2)
    bright = np.clip(gray - 60, 0, None)
    y, x = np.mgrid[: gray.shape[0], : gray.shape[1]] + 0.5
    return float((bright * y).sum() / bright.sum() / len(gray)), float((bright * x).sum() / bright.sum() / len(gray[0]))


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "4:2:0": ("RGB", {"subsampling": 2}),
    "4:2:2": ("RGB", {"subsampling": 1}),
    "4:4:4": ("RGB", {"subsampling": 0}),
    "progressive": ("RGB", {"progressive": True}),
    "gray": ("L", {}),
    "CMYK": ("CMYK", {}),
    "restart intervals": ("RGB", {"restart_marker_blocks": 2}),
}


@pytest.mark.parametrize("by", [3, 4, 5, 8, 11, 17])
@pytest.mark.parametrize(("mode", "options"), KINDS.values(), ids=KINDS)
def test_the_picture_lies_where_the_full_one_does(mode: str, options: dict[str, Any], by: int) -> None:
    """At sides that the decoder has to round up, edges stay where they were to a tenth of a pixel of the target's."""
    for size in ((25 * by, 40 * by), (25 * by + 1, 40 * by + 1), (25 * by + by - 1, 40 * by + by // 2)):
        target = (size[0] // by, size[1] // by)
        box = (size[0] - 9 * by, size[1] - 15 * by, size[0] - 3 * by, size[1] - 3 * by)
        data = encode(rectangle(size, *box).convert(mode), "JPEG", quality=95, **options)
        found = read_picture(data, fit=lambda _, target=target: target, reduced=True)
        assert (found.values.shape[:2], found.original, found.size) == (target, size, size)
        y, x = center(found.values)
        assert y * target[0] == pytest.approx((box[0] + box[2]) / 2 / size[0] * target[0], abs=0.1)
        assert x * target[1] == pytest.approx((box[1] + box[3]) / 2 / size[1] * target[1], abs=0.1)
        assert found.values.max() > 200  # CMYK keeps its colors
        assert found.values.min() < 40


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int) -> None:
    """The target is that of the picture as seen; it lies as the full one does."""
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(rectangle((403, 643), 300, 400, 380, 620), "JPEG", quality=95, exif=exif)
    for upright in (True, False):
        full = decode_image(data, upright=upright)
        asked: list[Size] = []

        def fit(size: Size, asked: list[Size] = asked) -> Size:
            asked.append(size)
            return size[0] // 8, size[1] // 8

        found = read_picture(data, upright=upright, fit=fit, reduced=True)
        assert set(asked) == {full.shape[:2]}
        assert found.original == full.shape[:2]
        assert found.values.shape == (full.shape[0] // 8, full.shape[1] // 8)
        assert center(found.values) == pytest.approx(center(full), abs=0.002)


def test_less_is_decoded_only_where_it_is_asked_for() -> None:
    """Single pixels that alternate are the highest frequency, which a reduced decoding never sees."""
    y, x = np.mgrid[:160, :96]
    stripes = np.where((x < 48) & (x % 2 == 1), 255, 0) + np.where((x >= 48) & (y % 2 == 1), 255, 0)
    data = encode(Image.fromarray(stripes.astype(np.uint8)), "JPEG", quality=95)
    whole = Image.fromarray(decode_image(data)).convert("L")
    for by in (2, 4, 8, 16):
        target = (160 // by, 96 // by)
        full = read_picture(data, fit=lambda _, target=target: target)
        np.testing.assert_array_equal(full.values, np.asarray(whole.resize(target[::-1], Image.Resampling.BILINEAR)))
        reduced = read_picture(data, fit=lambda _, target=target: target, reduced=True)
        assert np.array_equal(reduced.values, full.values) == (by == 2)
        assert reduced.size == full.size == (160, 96)
    np.testing.assert_array_equal(read_picture(data, reduced=True).values, np.asarray(whole))


@pytest.mark.parametrize(("mode", "options"), KINDS.values(), ids=KINDS)
def test_the_pixels_are_nearly_those_of_the_whole(mode: str, options: dict[str, Any]) -> None:
    """Of a picture that has what photographs have: shades, edges, and a camera's noise."""
    y, x = np.mgrid[:403, :602]
    noise = np.random.default_rng(0).normal(0, 4, (403, 602, 1))
    ground = np.stack([60 * np.sin(x / 31) + 100, 60 * np.cos(y / 23) + 100, (x // 40 + y // 40) % 2 * 90 + 60], axis=2)
    image = Image.fromarray(np.clip(ground + noise, 0, 255).astype(np.uint8)).convert(mode)
    data = encode(image, "JPEG", quality=90, **options)
    for target in ((100, 150), (50, 75), (25, 37)):
        full = read_picture(data, fit=lambda _, target=target: target).values.astype(int)
        reduced = read_picture(data, fit=lambda _, target=target: target, reduced=True).values
        difference = np.abs(reduced - full)
        assert 0 < difference.mean() < 2
        assert difference.max() < 24
