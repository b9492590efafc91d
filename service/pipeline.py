"""The path of an accepted request: decode pool -> batcher and engine thread -> postprocess pool -> JSON bytes.

`Pipeline.predict` runs on the event loop and only hands work over; the functions below it run on the pools' threads.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from model.runtime.detections import RawDetections
from model.runtime.images import ImageError, ImageLimits, NotAnImage, TooManyPixels, UnsupportedFormat, decode_image
from model.runtime.preprocess import Prepared, prepare, stack, to_original
from service.answers import render, to_json
from service.batcher import Batcher, Computed, DeadlinePassedError
from service.gate import deadline_passed
from service.metrics import Metrics
from service.models import Models, ServedModel
from service.parameters import Options
from service.problems import (
    DAMAGED_IMAGE,
    NOT_AN_IMAGE,
    TOO_MANY_PIXELS,
    UNSUPPORTED_FORMAT,
    Problem,
)
from service.settings import Settings
from service.timing import Timing
from service.uploads import Upload

GPU_BATCH_SIZE = 8
CPU_BATCH_SIZE = 1

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """One image on its way through the network."""

    model: ServedModel
    prepared: Prepared
    score_threshold: float


class Pipeline:
    """The pools and the batcher, for all models. `predict` and `close` are for the event loop."""

    def __init__(self, models: Models, settings: Settings, metrics: Metrics) -> None:
        self.models = models
        self._metrics = metrics
        self._limits = ImageLimits(max_pixels=settings.max_pixels)
        self._decode_pool = ThreadPoolExecutor(settings.pool_threads, thread_name_prefix="decode")
        self._postprocess_pool = ThreadPoolExecutor(settings.pool_threads, thread_name_prefix="postprocess")
        batch_size = settings.max_batch_size
        if batch_size == "auto":
            on_cpu = all(model.engine.device == "cpu" for model in models.served)
            batch_size = CPU_BATCH_SIZE if on_cpu else GPU_BATCH_SIZE
        self.batcher = Batcher[_Task, RawDetections](
            infer,
            max_batch_size=batch_size,
            max_delay=settings.max_queue_delay_ms / 1e3,
            on_batch=lambda size, seconds: metrics.batch(size),
        )

    async def predict(self, model: ServedModel, upload: Upload, options: Options, deadline: float) -> bytes:
        """The answer's JSON. `deadline` is on `time.monotonic()`'s clock.

        Cancelling it takes the image out of whichever queue it waits in. Raises Problem, or whatever the engine raised.
        """
        timing = Timing()
        arrived = time.monotonic()
        try:
            prepared, timing.decode = await _in_pool(self._decode_pool, lambda: decode(upload, model, self._limits))
        except ImageError as error:
            raise _as_problem(error) from error
        timing.queue = time.monotonic() - arrived - timing.decode
        task = _Task(model, prepared, options.score_threshold)
        try:
            computed = await self.batcher.submit(task, (model, prepared.bucket), deadline)
        except DeadlinePassedError:
            raise deadline_passed() from None
        timing.queue += computed.queue_seconds
        timing.inference = computed.run_seconds
        (body, counts), seconds = await _in_pool(
            self._postprocess_pool, lambda: postprocess(model, prepared, computed, options, timing)
        )
        self._metrics.stage("decode", timing.decode)
        self._metrics.stage("queue", timing.queue)
        self._metrics.stage("inference", timing.inference)
        self._metrics.stage("postprocess", seconds)
        self._metrics.detections(model.manifest.name, counts)
        return body

    def hurry(self) -> None:
        """Nothing more will come: don't wait for fuller batches."""
        self.batcher.hurry()

    def close(self) -> None:
        self._decode_pool.shutdown(wait=False, cancel_futures=True)
        self.batcher.close()
        self._postprocess_pool.shutdown(wait=False, cancel_futures=True)
        self.models.close()


async def _in_pool(pool: ThreadPoolExecutor, work: Callable[[], Result]) -> tuple[Result, float]:
    """The work's result and its seconds, without those it waited for a thread."""

    def timed() -> tuple[Result, float]:
        start = time.perf_counter()
        result = work()
        return result, time.perf_counter() - start

    return await asyncio.get_running_loop().run_in_executor(pool, timed)


def decode(upload: Upload, model: ServedModel, limits: ImageLimits) -> Prepared:
    """The upload as the model's network takes it. The header's pixel count is checked before anything is decoded."""
    return prepare(decode_image(upload.image(), limits), model.manifest.preprocessing)


def infer(tasks: Sequence[_Task]) -> list[RawDetections]:
    """One run of the network for tasks of one model and bucket, each with its own score threshold."""
    images, sizes = stack([task.prepared for task in tasks])
    thresholds = np.array([task.score_threshold for task in tasks], np.float32)
    raw = tasks[0].model.engine.run(images, sizes, thresholds)
    return [raw.of_image(index) for index in range(len(tasks))]


def postprocess(
    model: ServedModel, prepared: Prepared, computed: Computed[RawDetections], options: Options, timing: Timing
) -> tuple[bytes, Counter[str]]:
    """The answer's JSON, and how many detections of each label are in it."""
    start = time.perf_counter()
    detections = to_original(
        computed.value,
        prepared,
        max_detections=options.max_detections,
        labels=options.label_ids,
        want_masks=options.masks != "none",
    )
    answer = render(model, prepared.original, detections, options.masks)
    counts = Counter[str](answer["labels"])
    timing.postprocess = time.perf_counter() - start
    return to_json(answer, timing), counts


def _as_problem(error: ImageError) -> Problem:
    kind = DAMAGED_IMAGE
    if isinstance(error, NotAnImage):
        kind = NOT_AN_IMAGE
    elif isinstance(error, UnsupportedFormat):
        kind = UNSUPPORTED_FORMAT
    elif isinstance(error, TooManyPixels):
        kind = TOO_MANY_PIXELS
    return Problem(kind, str(error))
