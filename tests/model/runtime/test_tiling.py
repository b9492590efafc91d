"""Tiles against pictures whose objects are known: none is lost, doubled or cut, wherever the borders fall."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model.runtime.detections import Detections
from model.runtime.kernels.rle import decode, encode_bitmap
from model.runtime.preprocess import Preprocessing
from model.runtime.tiling import STEP, Tile, TileAnswer, merge_tiles, plan_tiles, split, tile_side

Masks = NDArray[np.bool_]


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


def seen(masks: Masks, tile: Tile, *, with_masks: bool = True) -> TileAnswer:
    """What a network without a fault finds in a tile: the part of every object that the tile shows."""
    parts = masks[:, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
    there = np.flatnonzero(parts.any((1, 2)))
    rows = [(np.flatnonzero(parts[i].any(0)), np.flatnonzero(parts[i].any(1))) for i in there]
    boxes = np.array([[x[0], y[0], x[-1] + 1, y[-1] + 1] for x, y in rows], np.float32).reshape(-1, 4)
    rles = [encode_bitmap(parts[i]) for i in there] if with_masks else None
    scores = (0.9 - there / 1000).astype(np.float32)
    return TileAnswer(tile, Detections(boxes, scores, there % 2 + 1, rles))


@pytest.mark.parametrize("seed", range(12))
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


@pytest.mark.parametrize("seed", range(6))
def test_objects_larger_than_an_overlap_or_a_tile_are_joined(seed: int) -> None:
    size = (500, 620)
    masks = blobs(seed, size, 3, (70, 110))
    found = merge_tiles(size, [seen(masks, tile) for tile in plan_tiles(size, 160, 48)])
    assert found.masks is not None
    assert sorted(decode(rle).tobytes() for rle in found.masks) == sorted(mask.tobytes() for mask in masks)
    for box, rle in zip(found.boxes, found.masks, strict=True):
        y, x = np.nonzero(decode(rle))
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_the_order_of_the_tiles_changes_nothing() -> None:
    size = (300, 410)
    masks = blobs(1, size, 20, (3, 20))
    answers = [seen(masks, tile) for tile in plan_tiles(size, 128, 40)]
    first = merge_tiles(size, answers)
    for seed in range(4):
        again = merge_tiles(size, [answers[i] for i in np.random.default_rng(seed).permutation(len(answers))])
        assert again.masks == first.masks
        assert np.array_equal(again.boxes, first.boxes)


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
    assert found([96, 50, 104, 60], right) == 0, "cut by its own border, whole in the other"
    assert found([98, 50, 104, 60], right, full=True) == 1, "the left tile could not name all that it saw"
    assert found([150, 50, 160, 60], right) == 1, "no other tile shows it"


@pytest.mark.parametrize(
    ("size", "side", "overlap"),
    [((1, 1), 128, 0), ((128, 128), 128, 64), ((129, 1000), 128, 32), ((777, 1234), 256, 51)],
)
def test_tiles_cover_the_picture_overlap_and_begin_at_strides(size: tuple[int, int], side: int, overlap: int) -> None:
    tiles = plan_tiles(size, side, overlap)
    covered = np.zeros(size, int)
    for tile in tiles:
        assert tile.top % STEP == tile.left % STEP == 0
        assert max(tile.height, tile.width) < side + STEP
        tile.of(covered)[:] += 1  # type: ignore[arg-type]  # a view of any array
    assert covered.min() >= 1
    for starts, length in (({t.left: t.width for t in tiles}, size[1]), ({t.top: t.height for t in tiles}, size[0])):
        ends = [start + span for start, span in sorted(starts.items())]
        assert ends[-1] == length
        assert all(end - start >= overlap for end, start in zip(ends, sorted(starts)[1:], strict=False))


def test_an_overlap_of_more_than_half_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="an overlap of 65 does not fit tiles of 128"):
        plan_tiles((500, 500), 128, 65)


def test_a_tile_is_split_into_smaller_ones_that_cover_it() -> None:
    tile = Tile(64, 32, 256, 272)
    covered = np.zeros((400, 400), int)
    for part in split(tile):
        covered[part.top : part.top + part.height, part.left : part.left + part.width] += 1
    inside = covered[64 : 64 + 256, 32 : 32 + 272]
    assert inside.min() >= 1
    assert covered.sum() == inside.sum()


@pytest.mark.parametrize(
    ("size", "downscale", "side"),
    [
        pytest.param((3120, 4176), False, 1024, id="a mosaic that would be shrunk"),
        pytest.param((1536, 1536), False, None, id="as large as the network takes"),
        pytest.param((100, 4000), False, None, id="a strip that is enlarged all the same"),
        pytest.param((3024, 4032), True, None, id="a photograph, for a network that learned from shrunk ones"),
    ],
)
def test_auto_tiles_what_would_be_seen_smaller_than_trained(
    size: tuple[int, int], downscale: bool, side: int | None
) -> None:
    preprocessing = Preprocessing(min_size=256, max_size=1536, allow_downscale=downscale)
    assert tile_side(preprocessing, size) == side
