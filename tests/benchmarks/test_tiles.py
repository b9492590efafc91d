"""Pictures of growing size: what is written for them, and a whole run with the tests' own small model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tifffile import imread

from benchmarks.tiles import sizes
from benchmarks.tiles.sizes import measure, row, write_picture
from tests.service.harness import publish_probe


def images() -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 5, (height, width, 3), np.uint8) for height, width in ((40, 50), (30, 60))]


def test_a_picture_repeats_the_images_in_tiles(tmp_path: Path) -> None:
    first, second = images()
    path = tmp_path / "picture.tif"
    write_picture(path, [first, second], 600)
    picture = imread(path)
    assert picture.shape == (600, 600, 3)
    for number, (top, left) in enumerate(((0, 0), (0, 60), (40, 0), (520, 60), (560, 480))):
        image = (first, second)[(top // 40 * 10 + left // 60) % 2]
        height, width = image.shape[:2]
        np.testing.assert_array_equal(picture[top : top + height, left : left + width], image, err_msg=str(number))


def test_a_run_through_a_server(tmp_path: Path) -> None:
    publish_probe(tmp_path / "staging", tmp_path / "models")
    one = measure(tmp_path / "models", images(), 700, 512, 100)
    assert (one.side, one.tiles) == (700, 4)
    assert 0 < one.picture_rate < one.tile_rate
    assert one.single_tile_rate > 0
    assert 0 <= one.outside_share <= 1
    assert one.peak_bytes > sizes.FILE_TILE
    assert "4 tiles" in row(one)
