"""Tiles against pictures whose objects are known: none is lost, doubled or cut, wherever the borders fall."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from model.runtime import merging
from model.runtime.detections import Detections
from model.runtime.kernels.rle import decode, encode_bitmap
from model.runtime.merging import merge_tiles
from model.runtime.sightings import TileAnswer
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


def test_a_joined_object_is_never_in_memory_as_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thin one that reaches from corner to corner has the whole picture as its box."""
    monkeypatch.setattr(merging, "PIXELS_AT_ONCE", 2**16)
    size = (2560, 2560)
    picture = abs(np.subtract.outer(np.arange(size[0]), np.arange(size[1]))) < 30
    answers = [seen(picture[None], tile) for tile in plan_tiles(size, 256, 64)]
    tracemalloc.start()
    try:
        found = merge_tiles(size, answers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.masks == [encode_bitmap(picture)]
    assert peak < size[0] * size[1] / 2


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

    def found(box: list[float], tile: Tile, complete_above: float = 0.0) -> int:
        here = np.array([box], np.float32) - np.array([tile.left, tile.top] * 2, np.float32)
        one = Detections(here, np.ones(1, np.float32), np.ones(1, np.int64))
        none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        other = next(another for another in tiles if another != tile)
        return len(merge_tiles(size, [TileAnswer(tile, one), TileAnswer(other, none, complete_above)]))

    left, right = tiles
    assert found([98, 50, 104, 60], right) == 0, "the left tile sees 24 pixels beside it, the right one 2"
    assert found([98, 50, 104, 60], left) == 1
    assert found([106, 50, 112, 60], right) == 0, "neither cuts it, and the left one sees 6 pixels more"
    assert found([106, 50, 112, 60], left) == 1
    assert found([96, 50, 104, 60], right) == 0, "cut by its own border, whole in the other"
    assert found([98, 50, 104, 60], right, complete_above=0.3) == 1, "the left tile could not name all that it saw"
    assert found([150, 50, 160, 60], right) == 1, "no other tile shows it"
    assert found([70, 50, 128, 60], left) == 0, "cut; the right tile sees half of it and beyond, and has none"
    assert found([70, 50, 128, 60], left, complete_above=np.inf) == 1, "which could not name all that it saw"
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


def one(tile: Tile, box: list[float], score: float, label: int = 1) -> TileAnswer:
    """A tile with one object, of a box in the picture and no mask."""
    here = np.array([box], np.float32) - np.array([tile.left, tile.top] * 2, np.float32)
    return TileAnswer(tile, Detections(here, np.array([score], np.float32), np.array([label], np.int64)))


def none(tile: Tile) -> TileAnswer:
    return TileAnswer(tile, Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)))


SIZE, LEFT, RIGHT = (768, 1280), Tile(0, 0, 768, 768), Tile(0, 512, 768, 768)


@pytest.mark.parametrize(
    ("left", "scale", "count", "why"),
    [
        (555, 1.0, 0, "43 pixels of room, 203 in the other tile"),
        (560, 1.0, 1, "48 pixels show it well enough, whatever the other tile has found"),
        (555, 2.0, 1, "of which the network sees 86"),
        (580, 0.5, 0, "and here 34"),
    ],
)
def test_another_tile_s_silence_counts_of_what_has_little_around_it(
    left: float, scale: float, count: int, why: str
) -> None:
    assert len(merge_tiles(SIZE, [one(RIGHT, [left, 300, left + 10, 310], 0.9), none(LEFT)], scale)) == count, why


@pytest.mark.parametrize(
    ("left", "scale", "score", "why"),
    [
        (634, 1.0, 0.9, "114 pixels in the left tile are enough: the surest has it"),
        (648, 1.0, 0.6, "of 100 in the left one and 136 in the right one, the one with more"),
        (648, 2.0, 0.9, "which are 200 and 272 to the network"),
        (634, 0.5, 0.6, "and here 57 and 61"),
    ],
)
def test_the_surest_of_the_tiles_that_see_enough_has_the_object(
    left: float, scale: float, score: float, why: str
) -> None:
    box = [left, 300, left + 20, 320]
    merged = merge_tiles(SIZE, [one(LEFT, box, 0.9), one(RIGHT, box, 0.6)], scale)
    assert merged.scores.tolist() == [np.float32(score)], why


def test_a_tile_has_no_word_on_an_object_that_it_shows_as_another() -> None:
    """The left tile has one object where the right one has two: the second, with less room, is not found there."""
    half = [540, 300, 560, 320], [545, 300, 565, 320]
    answers = [one(LEFT, half[0], 0.9), one(RIGHT, half[0], 0.8)]
    boxes = np.array(half, np.float32) - np.array([512, 0, 512, 0], np.float32)
    answers[1] = TileAnswer(RIGHT, Detections(boxes, np.array([0.8, 0.7], np.float32), np.ones(2, np.int64)))
    assert merge_tiles(SIZE, answers).boxes.tolist() == [half[0]]


SURE = np.full(3, 0.5, np.float32)


def test_what_is_not_sure_adds_objects_and_changes_none() -> None:
    sure = [one(LEFT, [200, 300, 768, 340], 0.9), one(RIGHT, [900, 100, 930, 130], 0.8)]
    less = [one(RIGHT, [512, 300, 800, 340], 0.3), one(LEFT, [200, 200, 230, 230], 0.2)]
    answers = [
        TileAnswer(tile, both(first.detections, second.detections))
        for tile, first, second in ((LEFT, sure[0], less[1]), (RIGHT, sure[1], less[0]))
    ]
    alone = merge_tiles(SIZE, sure)
    merged = merge_tiles(SIZE, answers, sure=SURE)
    assert {tuple(box) for box in alone.boxes.tolist()} < {tuple(box) for box in merged.boxes.tolist()}
    assert sorted(merged.scores.tolist()) == [np.float32(0.2), np.float32(0.8), np.float32(0.9)], "0.3 is in 0.9"
    assert (merged.scores[:-1] >= merged.scores[1:]).all()
    as_one = merge_tiles(SIZE, answers)
    assert [200, 300, 800, 340] in as_one.boxes.tolist(), "without that, all of them are joined"


def test_a_tile_is_complete_above_the_least_score_of_those_that_are_sure() -> None:
    """One with as many detections as it can give, of which the last is not sure, has named all that are."""
    seen_well = one(RIGHT, [520, 300, 530, 310], 0.9)
    for last, count in ((0.4, 0), (0.6, 1)):
        silent = TileAnswer(LEFT, none(LEFT).detections, last)
        assert len(merge_tiles(SIZE, [seen_well, silent], sure=SURE)) == count
        assert len(merge_tiles(SIZE, [seen_well, silent])) == 1


def both(a: Detections, b: Detections) -> Detections:
    return Detections(
        np.concatenate([a.boxes, b.boxes]), np.concatenate([a.scores, b.scores]), np.concatenate([a.labels, b.labels])
    )


def test_where_those_that_are_sure_are_outvoted_a_less_sure_one_may_be_an_object() -> None:
    """The right tile shows it at its border; the left one, with much around it, is not sure."""
    answers = [one(RIGHT, [520, 300, 530, 310], 0.9), one(LEFT, [520, 300, 530, 310], 0.4)]
    assert merge_tiles(SIZE, answers, sure=SURE).scores.tolist() == [np.float32(0.4)]
    assert merge_tiles(SIZE, answers).scores.tolist() == [np.float32(0.4)], "as the left one sees more around it"


def test_two_objects_that_are_sure_stay_two_whatever_a_less_sure_one_has_in_common_with_both() -> None:
    first, second, between = [600, 300, 620, 320], [612, 300, 632, 320], [606, 300, 626, 320]
    third = Tile(0, 256, 768, 768)
    answers = [one(LEFT, first, 0.9), one(RIGHT, second, 0.8), one(third, between, 0.3)]
    assert merge_tiles(SIZE, answers, sure=SURE).boxes.tolist() == [first, second]


@pytest.mark.parametrize("inside", [0, 1, 2, 3])
def test_an_object_that_all_tiles_cut_keeps_the_small_ones_within_it(inside: int) -> None:
    size = (500, 620)
    y, x = np.mgrid[: size[0], : size[1]]
    masks = [np.hypot((y - 250) / 120, (x - 310) / 200) < 1]
    masks += [np.hypot(y - 250, x - center) < 6 for center in (200, 330, 420)[:inside]]
    answers = [seen(np.stack(masks), tile) for tile in plan_tiles(size, 256, 128)]
    for answer in answers:
        answer.detections.labels[:] = 1
    found = merge_tiles(size, answers)
    assert found.masks is not None
    assert sorted(decode(rle).tobytes() for rle in found.masks) == sorted(mask.tobytes() for mask in masks)
