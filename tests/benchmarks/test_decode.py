"""The ways from a file to the network's input: they end with the same picture before anything is timed."""

from __future__ import annotations

import os
import platform
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import decode
from model.runtime.images.decode import decode_image
from tests.model.runtime.images.pictures import encode

SIZE = (2403, 1801)
"""Seen at less than half its sides."""


@pytest.mark.parametrize("kind", decode.FILES)
def test_all_ways_see_the_same(kind: str) -> None:
    size = (403, 301)
    data = decode.file_of(kind, size)
    expected = decode.ours(data)
    assert expected.original == size
    for name, way in decode.ways(kind).items():
        found = way(data)
        assert (found.valid, found.original) == (expected.valid, expected.original), name
        if kind != "PNG, 16 bits":  # Pillow cuts off what is above 255
            assert np.abs(found.pixels.astype(int) - expected.pixels).mean() < 1, name


def test_our_pixels_are_those_of_pillow() -> None:
    comparison = decode.compare("JPEG", SIZE, rounds=1)
    assert comparison.details["differences"][decode.PILLOW] == 0
    assert comparison.details["differences"][decode.OURS] == 0


def test_all_ways_to_shrink_a_jpeg_end_with_nearly_the_same_picture() -> None:
    y, x = np.mgrid[:160, :240]
    ways = decode.shrunk(
        encode(Image.fromarray((60 * np.sin(x / 9) + 60 * np.cos(y / 7) + 128).astype(np.uint8)), "JPEG"), (40, 60)
    )
    in_full = ways.pop("in full").astype(int)
    assert in_full.shape == (40, 60, 3)
    for name, pixels in ways.items():
        assert 0 < np.abs(pixels - in_full).mean() < 2, name


def test_enlarging_keeps_the_picture() -> None:
    image = np.full((20, 30, 3), 100, np.uint8)
    data = decode.enlarged(image, 3, np.random.default_rng(0))
    whole = decode_image(data)
    assert whole.shape == (60, 90, 3)
    assert abs(float(whole.mean()) - 100) < 1
    assert float(whole.std()) > 2  # a camera's noise


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or not os.access("/proc/self/clear_refs", os.W_OK),
    reason="peaks are measured with /proc and glibc",
)
def test_the_whole_picture_is_held_once() -> None:
    whole = SIZE[0] * SIZE[1] * 4 / 2**20  # Pillow keeps RGB in 4 bytes
    ours, pillow = (decode.peak_alone("JPEG", SIZE, way) for way in (decode.OURS, decode.PILLOW))
    assert whole < ours < 2 * whole
    assert ours < pillow
