"""Tiles against pictures whose objects are known: none is lost, doubled or cut, wherever the borders fall."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from model.runtime.detections import Detections
from model.runtime.kernels.rle import decode
from model.runtime.merging import TileAnswer, merge_tiles, unlike
from model.runtime.tiling import Tile, plan_tiles
from tests.model.runtime.perfect import Masks, seen


def blobs(seed: int, size: tuple[int, int], count: int, radius: tuple[float, float]) -> Masks:
    """bool [N, H, W]: uneven discs that do not touch each other, some at the picture's border."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    taken = np.zeros(size, bool)
    masks: list[NDArray[np.bool_]] = []
    while len(masks) < count:
        center, angle = rng.uniform(0, size), np.arctan2(y, x)
        edge = rng.uniform(*radius) * (1 + 0.2 * np.cos(3 * angle + rng.uniform(0, 6)))
        mask = np.hypot(y - center[0], x - center[1]) < edge
        if mask.any() and not (mask & taken).any():
            taken |= mask
            masks.append(mask)
    return np.stack(masks)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("side", "overlap"), [(128, 64), (160, 48), (224, 40)])
def test_every_object_is_there_once_and_whole(seed: int, side: int, overlap: int) -> None:
    size = (401, 530)
    masks = blobs(seed, size, 40, (2, 18))
    tiles = plan_tiles(size, side, overlap)
    found = merge_tiles(size, [seen(masks, tile) for tile in tiles])
    assert found.masks is not None
    assert len(found) == len(masks)
    order = np.argsort(-(0.9 - np.arange(len(masks)) / 1000), kind="stable")
    for row, number in enumerate(order):
        assert found.labels[row] == number % 2 + 1
        assert np.array_equal(decode(found.masks[row]), masks[number])


@pytest.mark.parametrize("short", [0.0, 0.03])
@pytest.mark.parametrize("seed", range(3))
def test_objects_larger_than_an_overlap_or_a_tile_are_joined(seed: int, short: float) -> None:
    size = (500, 620)
    masks = blobs(seed, size, 3, (70, 110))
    found = merge_tiles(size, [seen(masks, tile, short=short) for tile in plan_tiles(size, 160, 48)])
    assert found.masks is not None
    assert sorted(decode(rle).tobytes() for rle in found.masks) == sorted(mask.tobytes() for mask in masks)
    for box, rle in zip(found.boxes, found.masks, strict=True):
        y, x = np.nonzero(decode(rle))
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def ribbons(seed: int, size: tuple[int, int], count: int) -> NDArray[np.bool_]:
    """bool [H, W]: winding bands and rings that reach through several tiles, which may show them in pieces."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    picture = np.zeros(size, bool)
    for _ in range(count):
        center, radius = rng.uniform(0, size), rng.uniform(20, 130)
        distance, angle = np.hypot(y - center[0], x - center[1]), np.arctan2(y - center[0], x - center[1])
        edge = radius * (1 + 0.15 * np.cos(rng.integers(2, 7) * angle + rng.uniform(0, 6)))
        picture |= (abs(distance - edge) < rng.uniform(2, 7)) & (angle > rng.uniform(-4, 2))
    return picture


def components(picture: NDArray[np.bool_], tile: Tile) -> TileAnswer:
    """Every connected part that a tile shows, whether or not it is connected to another outside."""
    shown = picture[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
    numbers, count = ndimage.label(shown)
    parts = numbers == np.arange(1, count + 1)[:, None, None]
    answer = seen(parts, Tile(0, 0, tile.height, tile.width)).detections
    return TileAnswer(
        tile, Detections(answer.boxes, np.ones(count, np.float32), np.ones(count, np.int64), answer.masks)
    )


@pytest.mark.parametrize("seed", range(8))
def test_what_tiles_show_in_pieces_is_the_same_wherever_the_grid_lies(seed: int) -> None:
    size = (420, 560)
    picture = ribbons(seed, size, 9)
    numbers, count = ndimage.label(picture)
    expected = sorted((numbers == number).tobytes() for number in range(1, count + 1))
    for side, overlap, shift in [(192, 64, (0, 0)), (192, 64, (64, 0)), (192, 64, (37, 91)), (256, 64, (128, 64))]:
        answers = [components(picture, tile) for tile in plan_tiles(size, side, overlap, shift)]
        found = merge_tiles(size, answers)
        assert found.masks is not None
        assert sorted(decode(rle).tobytes() for rle in found.masks) == expected
        assert merge_tiles(size, answers[::-1]).masks == found.masks


def test_the_order_of_the_tiles_changes_nothing() -> None:
    size = (300, 410)
    masks = blobs(1, size, 20, (3, 20))
    answers = [seen(masks, tile) for tile in plan_tiles(size, 128, 40)]
    first = merge_tiles(size, answers)
    for seed in range(4):
        again = merge_tiles(size, [answers[i] for i in np.random.default_rng(seed).permutation(len(answers))])
        assert again.masks == first.masks
        assert np.array_equal(again.boxes, first.boxes)


def test_a_tile_that_is_seen_twice_counts_once() -> None:
    size = (300, 410)
    answers = [seen(blobs(3, size, 20, (3, 14)), tile) for tile in plan_tiles(size, 128, 48)]
    assert len(merge_tiles(size, [*answers, *answers[::2]])) == len(merge_tiles(size, answers))


def test_boxes_alone_are_merged_too() -> None:
    size = (300, 410)
    masks = blobs(2, size, 25, (3, 14))
    found = merge_tiles(size, [seen(masks, tile, with_masks=False) for tile in plan_tiles(size, 128, 48)])
    assert found.masks is None
    assert len(found) == len(masks)


def test_the_tile_that_sees_more_around_a_place_decides() -> None:
    size, tiles = (128, 224), [Tile(0, 0, 128, 128), Tile(0, 96, 128, 128)]

    def found(box: list[float], tile: Tile, full: bool = False) -> int:
        here = np.array([box], np.float32) - np.array([tile.left, tile.top] * 2, np.float32)
        one = Detections(here, np.ones(1, np.float32), np.ones(1, np.int64))
        none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        other = next(another for another in tiles if another != tile)
        return len(merge_tiles(size, [TileAnswer(tile, one), TileAnswer(other, none, full)]))

    left, right = tiles
    assert found([98, 50, 104, 60], right) == 0, "the left tile sees 24 pixels beside it, the right one 2"
    assert found([98, 50, 104, 60], left) == 1
    assert found([106, 50, 112, 60], right) == 0, "neither cuts it, and the left one sees 6 pixels more"
    assert found([106, 50, 112, 60], left) == 1
    assert found([96, 50, 104, 60], right) == 0, "cut by its own border, whole in the other"
    assert found([98, 50, 104, 60], right, full=True) == 1, "the left tile could not name all that it saw"
    assert found([150, 50, 160, 60], right) == 1, "no other tile shows it"
    assert found([70, 50, 128, 60], left) == 0, "cut; the right tile sees half of it and beyond, and has none"
    assert found([70, 50, 128, 60], left, full=True) == 1, "which could not name all that it saw"
    assert found([20, 50, 128, 60], left) == 1, "of which the right tile sees too little to tell"
    assert found([96, 50, 150, 60], right) == 0, "as the first of these, from the other side"
    assert found([70, 0, 112, 60], left) == 1, "the picture's border cuts nothing, and its own tile sees more around it"


def test_two_objects_that_each_tile_tells_apart_stay_two() -> None:
    """Though each is more like the other than two views of one object need to be."""
    objects = np.array([[102, 30, 122, 70], [102, 40, 122, 80]], np.float32)
    answers = []
    for tile in (Tile(0, 0, 128, 128), Tile(0, 96, 128, 128)):
        here = objects - np.array([tile.left, tile.top] * 2, np.float32)
        answers.append(TileAnswer(tile, Detections(here, np.ones(2, np.float32), np.ones(2, np.int64))))
    assert sorted(merge_tiles((128, 224), answers).boxes.tolist()) == objects.tolist()


@pytest.mark.parametrize("with_masks", [True, False])
def test_what_is_no_object_of_others(with_masks: bool) -> None:
    size = (100, 140)
    masks = np.zeros((4, *size), bool)
    for mask, (top, left) in zip(masks, ((10, 10), (10, 12), (10, 18), (60, 90)), strict=True):
        mask[top : top + 20, left : left + 20] = True

    def some(*numbers: int) -> Detections:
        found = seen(masks[list(numbers)], Tile(0, 0, *size), with_masks=with_masks).detections
        return Detections(found.boxes, found.scores, np.ones(len(numbers), np.int64), found.masks)

    assert unlike(size, some(0, 1, 2, 3), some(0)).tolist() == [2, 3], "IoU of 1, 0.82, 0.43 and 0"
    assert unlike(size, some(0, 1), some()).tolist() == [0, 1]
    assert unlike(size, some(), some(0)).tolist() == []
    other = some(0)
    other.labels[:] = 2
    assert unlike(size, some(0), other).tolist() == [0], "of another label"
