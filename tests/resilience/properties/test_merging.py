"""Tiles of pictures whose objects are known: whatever their size and place, each is found once and whole."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.runtime.detections import Detections
from model.runtime.kernels.rle import decode
from model.runtime.merging import merge_tiles
from model.runtime.sightings import TileAnswer
from model.runtime.tiling import plan_tiles
from tests.model.runtime.perfect import seen
from tests.resilience.properties.pictures import Bitmap


@st.composite
def objects(draw: st.DrawFn, size: tuple[int, int]) -> Bitmap:
    """bool [N, H, W]: ellipses and rectangles, from a pixel to larger than a tile, none of them over another."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    taken = np.zeros(size, bool)
    masks = []
    for _ in range(draw(st.integers(1, 6))):
        center_y, center_x = draw(st.floats(0, size[0])), draw(st.floats(0, size[1]))
        half_y, half_x = draw(st.floats(0.5, 50)), draw(st.floats(0.5, 50))
        away_y, away_x = abs(y - center_y) / half_y, abs(x - center_x) / half_x
        mask = np.maximum(away_y, away_x) <= 1 if draw(st.booleans()) else np.hypot(away_y, away_x) <= 1
        if mask.any() and not (mask & taken).any():
            taken |= mask
            masks.append(mask)
    return np.array(masks, bool).reshape(-1, *size)


@given(st.data())
def test_every_object_is_there_once_and_whole(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 150), st.integers(1, 150)))
    side = data.draw(st.integers(24, 72))
    overlap = data.draw(st.integers(6, side // 2))
    masks = data.draw(objects(size))
    answers = [seen(masks, tile) for tile in plan_tiles(size, side, overlap)]
    found = merge_tiles(size, data.draw(st.permutations(answers)))
    assert found.masks is not None
    assert sorted(decode(rle).tobytes() for rle in found.masks) == sorted(mask.tobytes() for mask in masks)
    for box, rle in zip(found.boxes, found.masks, strict=True):
        rows, columns = np.nonzero(decode(rle))
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.integers(1, 1100),
    st.data(),
)
def test_tiles_cover_every_pixel_and_overlap_as_asked(size: tuple[int, int], side: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, side // 2))
    shift = data.draw(st.tuples(st.integers(0, side), st.integers(0, side)))
    for length, spans in zip(
        size,
        (
            sorted({(tile.top, tile.top + tile.height) for tile in plan_tiles((size[0], 1), side, overlap, shift)}),
            sorted({(tile.left, tile.left + tile.width) for tile in plan_tiles((1, size[1]), side, overlap, shift)}),
        ),
        strict=True,
    ):
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        for before, after in pairwise(spans):
            assert before[0] < after[0], "the same again"
            assert before[1] - after[0] >= overlap


@st.composite
def views(draw: st.DrawFn) -> list[TileAnswer]:
    """What a network with every fault finds in the tiles of a picture: boxes anywhere, of any score and two labels."""
    answers = []
    for tile in plan_tiles(SIZE, 64, 32):
        boxes = []
        for _ in range(draw(st.integers(0, 4))):
            x, y = draw(st.integers(0, tile.width - 4)), draw(st.integers(0, tile.height - 4))
            boxes.append((x, y, draw(st.integers(x + 3, tile.width)), draw(st.integers(y + 3, tile.height))))
        scores = np.sort(np.array([draw(st.integers(100, 900)) / 1000 for _ in boxes], np.float32))[::-1]
        labels = np.array([draw(st.integers(1, 2)) for _ in boxes], np.int64)
        complete_above = draw(st.sampled_from([0.0, np.inf])) if not boxes else draw(st.sampled_from([0.0, scores[-1]]))
        found = Detections(np.array(boxes, np.float32).reshape(-1, 4), scores, labels)
        answers.append(TileAnswer(tile, found, complete_above))
    return answers


SIZE = (96, 128)
SURE = np.array([0.4, 0.4, 0.6], np.float32)


def sure_of(found: Detections) -> Detections:
    rows = found.scores > SURE[found.labels]
    return Detections(found.boxes[rows], found.scores[rows], found.labels[rows])


@given(views())
def test_what_is_less_sure_changes_nothing_that_is_sure(answers: list[TileAnswer]) -> None:
    alone = [
        TileAnswer(one.tile, sure_of(one.detections), one.complete_above if one.complete_above > 0.4 else 0.0)
        for one in answers
    ]
    expected, found = merge_tiles(SIZE, alone), sure_of(merge_tiles(SIZE, answers, sure=SURE))
    for field in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
