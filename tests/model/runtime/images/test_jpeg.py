"""A JPEG that lacks nothing but its end marker is a picture; one that is cut short is damaged."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.decode import decode_image
from model.runtime.images.errors import DamagedImage
from model.runtime.images.reading import read_picture
from tests.model.runtime.images.pictures import encode, picture

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("RGB", {}),
    "gray": ("L", {}),
    "CMYK": ("CMYK", {}),
    "fine": ("RGB", {"quality": 98, "subsampling": 0}),
    "progressive": ("RGB", {"progressive": True}),
    "progressive gray": ("L", {"progressive": True}),
    "restart intervals": ("RGB", {"restart_marker_blocks": 2}),
}
BEHIND = {
    "nothing": b"",
    "zeros": bytes(16),
    "a disk's sector of zeros": bytes(4096),
    "erased flash": b"\xff" * 512,
    "half a marker": b"\xff",
    "something else": b"0000 appended by a camera",
}


SHRINKS = [1, 4, 16]
"""In full, and decoded at a half and an eighth: what is missing is found at any size."""


def decoded(data: bytes, by: int) -> NDArray[np.uint8]:
    def fit(size: tuple[int, int]) -> tuple[int, int]:
        return size[0] // by, size[1] // by

    values: NDArray[np.uint8] = read_picture(data, fit=None if by == 1 else fit, reduced=True).values
    return values


@pytest.fixture(scope="module")
def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 56, 3), np.uint8))


@pytest.mark.parametrize("by", SHRINKS)
@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize(("mode", "options"), KINDS.values(), ids=KINDS)
def test_without_its_end_marker(mode: str, options: dict[str, Any], behind: bytes, by: int, noise: Image.Image) -> None:
    for image in (noise, picture(), Image.new("RGB", (40, 24), "white")):
        data = encode(image.convert(mode), "JPEG", **options)
        np.testing.assert_array_equal(decoded(data[:-2] + behind, by), decoded(data, by))


@pytest.mark.parametrize("by", SHRINKS)
@pytest.mark.parametrize("filler", [b"", bytes(4096), b"\xff" * 4096], ids=["as it is", "zeros", "erased flash"])
@pytest.mark.parametrize(("mode", "options"), KINDS.values(), ids=KINDS)
def test_cut_short(mode: str, options: dict[str, Any], filler: bytes, by: int, noise: Image.Image) -> None:
    data = encode(noise.convert(mode), "JPEG", **options)
    for cut in [*range(3, 12), *range(12, len(data) - 2, 97)]:
        with pytest.raises(DamagedImage):
            decoded(data[:-cut] + filler, by)


@pytest.mark.parametrize("by", SHRINKS)
@pytest.mark.parametrize("size", [(40, 56), (33, 49), (39, 55), (41, 64)], ids=str)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "progressive" not in kind])
def test_cut_short_but_with_an_end_marker(kind: str, size: tuple[int, int], by: int) -> None:
    """The decoder would leave the rest gray without a word. The last block may have a single row or column."""
    mode, options = KINDS[kind]
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8))
    data = encode(noise.convert(mode), "JPEG", **options)
    start = data.index(b"\xff\xda") + 40
    for length in range(start, len(data) * 3 // 4, 61):
        with pytest.raises(DamagedImage, match=r"blocks are missing before its end marker|broken data stream"):
            decoded(data[:length] + b"\xff\xd9", by)


@pytest.mark.parametrize(
    "stray", [b"\xff\x2a", b"\xff\xe1", b"\xff\xfe\0\4", b"\xff\xff\x9d", b"\xff\xd3"], ids=bytes.hex
)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "restart intervals"])
def test_a_marker_in_the_middle_of_a_scan(kind: str, stray: bytes, noise: Image.Image) -> None:
    """The decoder goes no further, and would leave the rest gray."""
    mode, options = KINDS[kind]
    data = encode(noise.convert(mode), "JPEG", **options)
    scan = data.index(b"\xff\xda") + 14
    end = data.index(b"\xff", scan + 20) if "progressive" in kind else len(data) - 20
    for at in range(scan + 4, end - 8, max(1, (end - scan) // 7)):
        with pytest.raises(DamagedImage):
            decode_image(data[:at] + stray + data[at + len(stray) :])


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_gray_picture_is_not_taken_for_a_cut_one(mode: str) -> None:
    for gray in (127, 128):
        image = Image.new("L", (40, 24), gray).convert(mode)
        for by in SHRINKS:
            assert decoded(encode(image, "JPEG"), by).shape[:2] == (24 // by, 40 // by)


def test_a_progressive_one_that_ends_between_two_scans_is_cut_short(noise: Image.Image) -> None:
    data = encode(noise, "JPEG", progressive=True)
    at = -1
    for _ in range(data.count(b"\xff\xda") - 1):
        at = data.index(b"\xff\xda", at + 1)
        tables = data.rfind(b"\xff\xc4", 0, at)
        for cut in (at, tables):
            for by in SHRINKS:
                with pytest.raises(DamagedImage):
                    decoded(data[:cut], by)


@pytest.mark.parametrize(
    "options", [{"restart_marker_blocks": 1}, {"restart_marker_blocks": 3}, {"restart_marker_rows": 1}]
)
@pytest.mark.parametrize("kind", [{}, {"subsampling": 0}, {"subsampling": 2}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_lacks_whole_restart_intervals_is_damaged(
    noise: Image.Image, mode: str, kind: dict[str, Any], options: dict[str, Any]
) -> None:
    """The decoder goes on behind them without a word."""
    for size in (noise.size, (33, 17)):
        data = encode(noise.resize(size).convert(mode), "JPEG", **kind, **options)
        decode_image(data)
        markers = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", data)]
        if not markers:
            continue
        middle = len(markers) // 2
        cuts = [data[: markers[middle]] + b"\xff\xd9"]
        if len(markers) > 8:  # eight are counted through, so that those that stay fit each other
            cuts.append(data[: markers[0]] + data[markers[8] :])
        for cut in cuts:
            for by in SHRINKS:
                with pytest.raises(DamagedImage):
                    decoded(cut, by)
