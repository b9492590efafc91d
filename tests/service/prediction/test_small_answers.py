"""Where an answer is made, on the event loop or on a thread, is told by what it costs, and does not show in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from model.runtime.detections import RawDetections
from model.runtime.preprocess import Prepared
from service.models.catalog import Catalog
from service.models.loading import load_first
from service.observability.metrics import Metrics
from service.observability.record import ImageRecord
from service.prediction.answers import Detected, prediction, to_json
from service.prediction.decoding import Job
from service.prediction.parameters import MaskFormat, PredictQuery
from service.prediction.pipeline import Pipeline
from service.prediction.seeing import COLUMNS_PER_DETECTION, SMALL, is_small
from service.scheduling.gate import Deadline
from service.scheduling.priority import Priority
from service.settings.settings import Settings
from tests.service.harness import encode, picture
from tests.service.probe import SIDE

FEW = SMALL // COLUMNS_PER_DETECTION


@pytest.fixture(scope="module")
def catalog(repository: Path) -> Iterator[Catalog]:
    loaded = load_first(Settings(models=repository, engine_threads=1))
    yield loaded
    loaded.close()


def job_of(catalog: Catalog, upload: bytes = b"", masks: MaskFormat = "rle", *, is_light: bool = True) -> Job:
    model = catalog.find()
    deadline = Deadline(asyncio.Timeout(None), 600)
    options = PredictQuery(score_threshold=0.0, masks=masks, tile="off").options(model)
    return Job(model, lambda: upload, options, deadline, Priority.INTERACTIVE, ImageRecord(), is_light=is_light)


def found(count: int, width: float, *, masks: bool = True, keypoints: bool = False) -> RawDetections:
    return RawDetections(
        np.tile(np.array([1, 1, 1 + width, 9], np.float32), (count, 1)),
        np.full(count, 0.9, np.float32),
        np.ones(count, np.int64),
        np.zeros(count, np.int64),
        np.ones((count, 28, 28), np.float32) if masks else None,
        np.ones((count, 2, 56, 56), np.float32) if keypoints else None,
    )


@pytest.mark.parametrize(
    ("raw", "scale", "masks", "is_light", "expected"),
    [
        pytest.param(found(0, 0), 1, "rle", True, True, id="nothing found"),
        pytest.param(found(20, 48), 1, "rle", True, True, id="a few narrow masks"),
        pytest.param(found(20, 48), 4, "rle", True, False, id="they are wide in the picture itself"),
        pytest.param(found(1, SMALL), 1, "rle", True, False, id="one mask as wide as many"),
        pytest.param(found(1, SMALL), 1, "none", True, True, id="whose mask nobody wants"),
        pytest.param(found(1, SMALL, masks=False), 1, "rle", True, True, id="of a model without masks"),
        pytest.param(found(FEW, 0), 1, "none", True, True, id="as many as may be"),
        pytest.param(found(FEW + 1, 0), 1, "none", True, False, id="one more"),
        pytest.param(found(1, 8, keypoints=True), 1, "rle", True, False, id="keypoints are searched for in maps"),
        pytest.param(found(1, 8), 1, "rle", False, False, id="something is made of them"),
        pytest.param(found(1, float("nan")), 1, "rle", True, False, id="a width that nobody knows"),
    ],
)
def test_small_is_what_costs_little(
    catalog: Catalog, raw: RawDetections, scale: int, masks: MaskFormat, is_light: bool, expected: bool
) -> None:
    prepared = Prepared(np.zeros((100, 100, 3), np.uint8), (100, 100), (100 * scale, 100 * scale))
    assert is_small(job_of(catalog, masks=masks, is_light=is_light), prepared, raw) is expected


@pytest.mark.parametrize(
    ("side", "is_light", "thread"),
    [
        pytest.param(SIDE, True, "MainThread", id="small"),
        pytest.param(16 * SIDE, True, "postprocess", id="wide"),
        pytest.param(SIDE, False, "postprocess", id="not light"),
    ],
)
def test_the_thread_makes_no_difference_to_the_answer(
    catalog: Catalog, side: int, is_light: bool, thread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = encode(picture(size=(side, side)))
    threads: list[str] = []

    def render(detected: Detected) -> bytes:
        threads.append(threading.current_thread().name)
        return to_json(prediction(detected, "rle") | {"timing_ms": None})

    async def ask() -> tuple[bytes, Metrics]:
        metrics = Metrics()
        pipeline = Pipeline(catalog, Settings(), metrics)
        try:
            return await pipeline.predict(job_of(catalog, upload, is_light=is_light), render), metrics
        finally:
            pipeline.close()

    answer, metrics = asyncio.run(ask())
    monkeypatch.setattr("service.prediction.seeing.SMALL", -1)
    on_a_thread, counted_there = asyncio.run(ask())
    assert threads[0].startswith(thread)
    assert threads[1].startswith("postprocess")
    assert answer == on_a_thread
    assert len(orjson.loads(answer)["scores"]) == 6
    assert counts(metrics) == counts(counted_there)


def counts(metrics: Metrics) -> list[str]:
    lines = metrics.render().decode().splitlines()
    return [line for line in lines if line.startswith(("maskserve_detection", "maskserve_scored"))]
