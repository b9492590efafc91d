"""Which tiles are seen again in smaller ones depends on the picture and the model, not on a request's threshold."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.architecture import ArchitectureConfig
from model.runtime.bundles.manifest import ServingDefaults
from model.runtime.detections import RawDetections
from model.runtime.preprocess import Prepared, Preprocessing
from model.runtime.tiling import plan_tiles
from service.models.catalog import ServedModel
from service.models.loading import load_first
from service.observability.record import ImageRecord
from service.prediction.parameters import PredictQuery
from service.prediction.remembered import TileMemory
from service.prediction.tiles import Compute, InTiles, predict_in_tiles
from service.scheduling.pool import Pool
from service.settings.settings import Settings

SIZE = (512, 896)
MOST, OBJECTS = 400, 200
"""Detections that the network gives, and objects of which it is sure to propose all."""


@pytest.fixture(scope="module")
def model(repository: Path) -> Iterator[ServedModel]:
    """Label 1 counts from 0.8, the others from 0.3; sizes and limits are those of a model for microscopy."""
    catalog = load_first(Settings(models=repository, engine_threads=1))
    served = catalog.find()
    architecture = ArchitectureConfig(num_classes=4, detections_per_image=MOST, min_size=256, max_size=1536)
    manifest = served.manifest.model_copy(
        update={
            "architecture": architecture,
            "preprocessing": Preprocessing(min_size=256, max_size=1536, allow_downscale=False),
            "defaults": ServingDefaults(score_threshold=0.3, score_thresholds={"circle": 0.8}),
        }
    )
    yield ServedModel.of(manifest, served.engines, served.precision, served.lane, served.max_queue_size)
    catalog.close()


def predicted(
    model: ServedModel,
    query: PredictQuery,
    compute: Compute,
    memory: TileMemory | None = None,
    seen: Callable[[], None] = lambda: None,
) -> InTiles:
    """The answer for a picture whose tiles' pixels tell where they begin, in steps of 64 from the left."""

    async def predict() -> InTiles:
        decode_pool, postprocess_pool = Pool(1, "decode"), Pool(1, "postprocess")
        try:
            return await predict_in_tiles(
                SIZE,
                lambda tile: np.full((tile.height, tile.width, 3), tile.left // 64, np.uint8),
                plan_tiles(SIZE, 512, 128),
                model,
                query.options(model),
                record=ImageRecord(),
                compute=compute,
                extend=lambda tiles: None,
                decode_pool=decode_pool,
                postprocess_pool=postprocess_pool,
                seen=seen,
                memory=memory or TileMemory(0),
            )
        finally:
            decode_pool.close()
            postprocess_pool.close()

    return asyncio.run(predict())


def seen_in_tiles(
    model: ServedModel, scores: list[float], label: int, query: PredictQuery, memory: TileMemory | None = None
) -> tuple[InTiles, Counter[int]]:
    """The answer for a picture of which each tile has these scores, and how many tiles of each side were seen."""
    sides: Counter[int] = Counter()

    async def compute(prepared: Prepared, score_threshold: float) -> RawDetections:
        height, width = prepared.valid
        sides[height] += 1
        kept = np.sort(np.array([score for score in scores if score > score_threshold], np.float32))[::-1][:MOST]
        y, x = np.divmod(np.arange(len(kept)), width // 8)
        corners = np.stack([x, y], 1) * 8.0
        return RawDetections(
            np.concatenate([corners, corners + 6], 1).astype(np.float32),
            kept,
            np.full(len(kept), label),
            np.zeros(len(kept), np.int64),
        )

    return predicted(model, query, compute, memory), sides


@pytest.mark.parametrize(
    ("scores", "label", "threshold", "is_split", "full", "why"),
    [
        ([0.9] * (OBJECTS - 1) + [0.1] * 200, 1, None, False, False, "fewer objects than it proposes"),
        ([0.9] * (OBJECTS - 1) + [0.1] * 200, 1, 0.05, False, False, "what a low threshold finds besides is no crowd"),
        ([0.7] * 250, 1, 0.05, False, False, "nor is what the label's own threshold would not keep"),
        ([0.7] * 250, 2, 0.05, True, False, "another label's does"),
        ([0.9] * OBJECTS, 1, None, True, False, "more than it surely proposes"),
        ([0.9] * OBJECTS, 1, 0.05, True, False, "and at a low threshold"),
        ([0.9] * OBJECTS, 1, 0.95, True, False, "and at a high one: its answer is a part of the others"),
        ([0.1] * MOST, 1, None, False, False, "nothing is found"),
        ([0.1] * MOST, 1, 0.05, False, True, "as many as it gives, none of which would count otherwise"),
        ([0.75] * MOST, 1, None, True, True, "as many as it gives, near the label's own threshold"),
        ([0.9] * (MOST - 1) + [0.85] * 9, 1, 0.87, True, False, "what it did not give is not asked for"),
        ([0.9] * (MOST - 1) + [0.85] * 9, 1, 0.82, True, True, "now it is"),
    ],
)
def test_a_tile_is_crowded_whatever_threshold_is_asked_for(
    model: ServedModel, scores: list[float], label: int, threshold: float | None, is_split: bool, full: bool, why: str
) -> None:
    found, sides = seen_in_tiles(model, scores, label, PredictQuery(score_threshold=threshold, tile="512"))
    assert sides == ({512: 2, 384: 8, 256: 18} if is_split else {512: 2}), why
    assert found.full is full, why
    wanted = {1: 0.8, 2: 0.3}[label] if threshold is None else threshold
    assert (found.detections.scores > wanted).all(), why
    assert len(found.detections) > 0 or max(scores) <= wanted


@pytest.mark.parametrize(("threshold", "count"), [(None, 1), (0.05, 1), (0.9, 1), (0.98, 0)])
def test_a_threshold_takes_objects_away_and_tears_none(model: ServedModel, threshold: float | None, count: int) -> None:
    """One that the border between two tiles cuts, of which the second scores less than the first."""

    async def compute(prepared: Prepared, score_threshold: float) -> RawDetections:
        box, score = ([350, 9, 512, 99], 0.97) if prepared.pixels[0, 0, 0] == 0 else ([0, 9, 236, 99], 0.85)
        kept = slice(int(score > score_threshold))
        one = RawDetections(
            np.array([box], np.float32), np.array([score], np.float32), np.array([2]), np.zeros(1, np.int64)
        )
        return RawDetections(one.boxes[kept], one.scores[kept], one.labels[kept], one.image_index[kept])

    found = predicted(model, PredictQuery(score_threshold=threshold, tile="512"), compute).detections
    assert found.boxes.tolist() == [[350, 9, 620, 99]] * count


def test_a_low_threshold_adds_objects_and_changes_none_that_are_sure(model: ServedModel) -> None:
    """A piece that the next tile sees goes on in something that scores little: alone it is none, joined it would be."""

    async def compute(prepared: Prepared, score_threshold: float) -> RawDetections:
        boxes, scores = [[350, 9, 512, 99], [20, 9, 60, 60], [20, 200, 60, 260]], [0.97, 0.9, 0.1]
        if prepared.pixels[0, 0, 0]:
            boxes, scores = [[0, 9, 236, 99], [300, 9, 360, 60]], [0.2, 0.9]
        kept = np.flatnonzero(np.array(scores) > score_threshold)
        return RawDetections(
            np.array(boxes, np.float32)[kept], np.array(scores, np.float32)[kept], np.full(len(kept), 2), kept * 0
        )

    found = {
        threshold: predicted(model, PredictQuery(score_threshold=threshold, tile="512"), compute).detections
        for threshold in (None, 0.05)
    }
    sure, all_of_it = ({tuple(box) for box in found[threshold].boxes.tolist()} for threshold in (None, 0.05))
    assert sure == {tuple(box) for box in found[0.05].boxes[found[0.05].scores > 0.3].tolist()}
    assert (20.0, 200.0, 60.0, 260.0) in all_of_it - sure
    assert (found[0.05].scores[:-1] >= found[0.05].scores[1:]).all()


CROWD = [0.9] * OBJECTS + [0.4] * 50
FEW = [0.9] * 20 + [0.4] * 50


@pytest.mark.parametrize(
    ("scores", "first", "then", "again", "why"),
    [
        (FEW, {"score_threshold": 0.05}, {"score_threshold": 0.05}, {}, "the same once more"),
        (FEW, {"score_threshold": 0.05}, {}, {}, "what scores more was among it"),
        (FEW, {"score_threshold": 0.05}, {"labels": ["square"]}, {}, "of another label there is nothing"),
        (FEW, {"score_threshold": 0.5}, {"score_threshold": 0.05}, {512: 2}, "less was never found"),
        (FEW, {"labels": ["square"]}, {}, {512: 2}, "of this label nothing was kept"),
        (CROWD, {"score_threshold": 0.05}, {}, {}, "split as the first time"),
        (CROWD, {}, {}, {}, "at the model's own thresholds"),
    ],
)
def test_a_picture_that_was_seen_is_not_computed_again(
    model: ServedModel,
    scores: list[float],
    first: dict[str, Any],
    then: dict[str, Any],
    again: dict[int, int],
    why: str,
) -> None:
    memory = TileMemory()
    _, computed = seen_in_tiles(model, scores, 1, PredictQuery(tile="512", **first), memory)
    assert computed
    query = PredictQuery(tile="512", **then)
    expected, _ = seen_in_tiles(model, scores, 1, query)
    found, computed = seen_in_tiles(model, scores, 1, query, memory)
    assert computed == again, why
    assert (found.tiles, found.full) == (expected.tiles, expected.full)
    np.testing.assert_array_equal(found.detections.boxes, expected.detections.boxes, err_msg=why)
    np.testing.assert_array_equal(found.detections.scores, expected.detections.scores, err_msg=why)


def test_a_picture_that_was_given_up_goes_on_where_it_was(model: ServedModel) -> None:
    memory = TileMemory()
    asked: list[int] = []
    first_is_seen = False

    def seen() -> None:
        nonlocal first_is_seen
        first_is_seen = True

    async def compute(prepared: Prepared, score_threshold: float) -> RawDetections:
        place = int(prepared.pixels[0, 0, 0])
        asked.append(place)
        while place and not first_is_seen:
            await asyncio.sleep(0)
        if place and len(asked) == 2:
            raise TimeoutError
        none = np.zeros(0, np.float32)
        return RawDetections(np.zeros((0, 4), np.float32), none, none.astype(np.int64), none.astype(np.int64))

    query = PredictQuery(tile="512")
    with pytest.raises(BaseExceptionGroup):
        predicted(model, query, compute, memory, seen)
    assert asked == [0, 6]
    assert predicted(model, query, compute, memory).tiles == 2
    assert asked == [0, 6, 6]


def test_what_is_left_of_a_picture_waits_for_no_garbage_collection(model: ServedModel) -> None:
    """Its pixels may be hundreds of megabytes, and a collection that finds them comes rarely."""

    class Pixels:
        async def compute(self, prepared: Prepared, score_threshold: float) -> RawDetections:
            none = np.zeros(0, np.float32)
            return RawDetections(none.reshape(0, 4), none, none.astype(np.int64), none.astype(np.int64))

    pixels = Pixels()
    left = weakref.ref(pixels)
    gc.disable()
    try:
        predicted(model, PredictQuery(tile="512"), pixels.compute)
        del pixels
        assert left() is None
    finally:
        gc.enable()
