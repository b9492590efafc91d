"""The mosaic; and pictures of growing size: what is written for them, and a whole run with the tests' small model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tifffile import imread

from benchmarks.tiles import sizes
from benchmarks.tiles.mosaic import FRAME, cut_back, framed, mosaic
from benchmarks.tiles.seen import SeenTiles
from benchmarks.tiles.sizes import measure, row, write_picture
from model.runtime.detections import Detections
from model.runtime.kernels.rle import decode, encode_bitmap
from model.runtime.tiling import STEP, Tile
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


@pytest.mark.parametrize("color", [None, np.array([1, 2, 3], np.uint8)], ids=["mirrored", "a color"])
def test_a_mosaic_has_the_images_in_frames(color: NDArray[np.uint8] | None) -> None:
    generator = np.random.default_rng(0)
    shapes = ((40, 50), (30, 60), (100, 10), (64, 64), (1, 1))
    shown = [generator.integers(5, 9, (*shape, 3), np.uint8) for shape in shapes]
    picture, places = mosaic(shown, 300, color)
    assert picture.all(), "something lies everywhere"
    for image, place in zip(shown, places, strict=True):
        np.testing.assert_array_equal(place.of(picture), image)
        assert place.top % STEP == place.left % STEP == 0
        pads = ((min(place.top, FRAME), FRAME), (min(place.left, FRAME), FRAME))
        around = Tile(
            place.top - pads[0][0], place.left - pads[1][0], place.height + sum(pads[0]), place.width + sum(pads[1])
        )
        np.testing.assert_array_equal(around.of(picture), framed(image, pads, color))


def test_what_is_found_in_a_mosaic_goes_back_into_the_images() -> None:
    masks = np.zeros((4, 50, 90), np.bool_)
    for mask, (top, left) in zip(masks, ((0, 0), (10, 25), (20, 35), (20, 78)), strict=True):
        mask[top : top + 8, left : left + 10] = True
    boxes = np.array([[0, 0, 10, 8], [25, 10, 35, 18], [35, 20, 45, 28], [78, 20, 88, 28]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    found = Detections(boxes, scores, np.ones(4, np.int64), [encode_bitmap(mask) for mask in masks])
    first, second = cut_back(found, [Tile(0, 0, 30, 30), Tile(10, 60, 30, 25)])
    assert first.boxes.tolist() == [[0, 0, 10, 8], [25, 10, 30, 18]], "cut at the image's border"
    assert second.boxes.tolist() == [[18, 10, 25, 18]], "the third lies in frames alone"
    assert first.masks is not None
    np.testing.assert_array_equal(decode(first.masks[1]), masks[1, :30, :30])


def test_what_was_seen_of_tiles_is_kept_in_a_file(tmp_path: Path) -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    mask = np.zeros((30, 20), np.bool_)
    mask[2:9, 3:11] = True
    found = Detections(
        np.array([[3.25, 2, 11, 9]], np.float32), np.array([0.7], np.float32), np.array([2]), [encode_bitmap(mask)]
    )
    tile, path = Tile(10, 40, 30, 20), tmp_path / "new" / "seen.json"
    seen = SeenTiles(path, "model", picture)
    assert seen.get(tile) is None
    seen.add(tile, found)
    seen.save()
    again = SeenTiles(path, "model", picture).get(tile)
    assert again is not None
    assert (again.boxes.tolist(), again.scores.tolist(), again.labels.tolist()) == (
        found.boxes.tolist(),
        found.scores.tolist(),
        [2],
    )
    assert again.masks == found.masks
    for model, other in (("another", picture), ("model", picture + 1)):
        with pytest.raises(ValueError, match=r"seen\.json has what another model, or this one in another picture"):
            SeenTiles(path, model, other)


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]"])
def test_a_file_that_holds_nothing_seen_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "seen.json"
    path.write_text(content)
    for wrong in (path, tmp_path):
        with pytest.raises(ValueError, match=r" is no file of what was seen in tiles"):
            SeenTiles(wrong, "model", np.zeros((8, 8, 3), np.uint8))
