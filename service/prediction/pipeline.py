"""The path of an accepted image: decode pool -> batcher and engine threads -> postprocess pool -> whatever is rendered.

`Pipeline.predict` runs on the event loop and hands work over: `decoding` and `seeing` run on the pools' threads. Only
an answer that is made in less time than handing it over takes is made on the event loop, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from model.runtime.detections import RawDetections
from model.runtime.engines.engine import DeviceLost, OutOfMemory, OverlappingEngine
from model.runtime.images.errors import (
    ImageError,
)
from model.runtime.images.limits import ImageLimits
from model.runtime.preprocess import Prepared, stack
from service.http.problems import (
    OUT_OF_MEMORY,
    Problem,
)
from service.models.catalog import Catalog, ServedModel
from service.observability.metrics import Metrics, ScoreCounts
from service.observability.record import ImageRecord
from service.prediction.answers import Detected, Seen
from service.prediction.decoding import Decoded, Job, as_problem, decode
from service.prediction.remembered import TileMemory
from service.prediction.seeing import is_small, score_counts_of, see_tiles, see_whole
from service.prediction.tiles import SECONDS_PER_TILE, InTiles, find_done, predict_in_tiles
from service.scheduling.batcher import (
    Batcher,
    BatchReport,
    Begun,
    DeadlinePassedError,
    EngineLostError,
    EngineStalledError,
)
from service.scheduling.gate import deadline_passed, engine_lost, engine_stalled
from service.scheduling.pool import Pool
from service.scheduling.priority import Priority
from service.scheduling.waiting import Computed
from service.settings.settings import Settings

RETRY_OUT_OF_MEMORY = 5
"""Seconds in `Retry-After`."""

Rendered = TypeVar("Rendered")


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """One image on its way through the network."""

    model: ServedModel
    prepared: Prepared
    score_threshold: float
    record: ImageRecord


class Pipeline:
    """The pools and the batcher, for all models. `predict` and `close` are for the event loop."""

    def __init__(self, catalog: Catalog, settings: Settings, metrics: Metrics, turn: int = 0) -> None:
        self._metrics = metrics
        self._limits = ImageLimits(settings.max_pixels, settings.max_picture_pixels)
        self.decode_pool = Pool(settings.pool_threads, "decode")
        self.postprocess_pool = Pool(settings.pool_threads, "postprocess")
        self._tiles = TileMemory()
        self.devices = catalog.served[0].devices
        self.device_names = distinct(self.devices, turn)
        self.batcher = Batcher[_Task, RawDetections](
            infer,
            devices=len(self.devices),
            on_batch=self._on_batch,
            stall_after=settings.stall_seconds,
            on_stall=lambda tasks, device: self.on_stall(tasks[0].model, device),
            on_loss=lambda tasks, device, error: self.on_loss(tasks[0].model, device, error),
        )
        self.on_stall: Callable[[ServedModel, int], None] = lambda model, device: None
        """Told the model whose engine hangs, and which of its engines it is."""
        self.on_loss: Callable[[ServedModel, int, DeviceLost], None] = lambda model, device, error: None
        """Told the same where its device is lost, and how."""

    async def predict(self, job: Job, render: Callable[[Detected], Rendered]) -> Rendered:
        """What `render` makes of the detections, on a postprocess thread unless it is little.

        Cancelling it takes the image out of whichever queue it waits in. Raises Problem, or whatever the engine raised.
        """
        try:
            return await self._predict(job, render)
        except ImageError as error:  # while it is decoded, at once or tile by tile
            raise as_problem(error) from error

    async def _predict(self, job: Job, render: Callable[[Detected], Rendered]) -> Rendered:
        record = job.record
        record.at = "decode"
        arrived = time.monotonic()
        picture, seconds = await self.decode_pool.run(lambda: decode(job, self._limits), job.priority)
        decoded = time.time_ns()
        record.add("queue", time.monotonic() - arrived - seconds, decoded - round(seconds * 1e9))
        record.add("decode", seconds, decoded)
        record.at = "queue"
        if picture.whole is not None:
            prepared = picture.whole
            raw = (await self._compute(job, prepared, job.options.score_threshold, job.priority)).value
            record.at = "postprocess"

            def answer() -> tuple[Rendered, list[tuple[str, ScoreCounts]] | None]:
                rendered = render_timed(job, picture, render, lambda: see_whole(job, prepared, raw))
                return rendered, score_counts_of(job, raw.scores, raw.labels)

            if is_small(job, prepared, raw):
                rendered, score_counts = answer()
            else:
                (rendered, score_counts), _ = await self.postprocess_pool.run(answer, job.priority)
        else:
            if picture.by_region is not None:
                done = await find_done(picture.by_region, job.options.intensity, self.decode_pool)
                picture = replace(picture, intensity=done)
            in_tiles = await self._in_tiles(job, picture)
            record.at = "postprocess"
            (rendered, score_counts), _ = await self.postprocess_pool.run(
                lambda: (render_timed(job, picture, render, lambda: see_tiles(job, in_tiles)), None), job.priority
            )
        record.at = "answer"
        self._metrics.image(job.model.name, job.model.version, record)
        if score_counts is not None:
            self._metrics.scores(job.model.name, score_counts)
        return rendered

    async def _in_tiles(self, job: Job, picture: Decoded) -> InTiles:
        def extend(tiles: int) -> None:
            job.progress.expect(tiles)
            if job.may_take_longer:
                job.deadline.extend(SECONDS_PER_TILE * tiles)

        async def compute(prepared: Prepared, score_threshold: float) -> RawDetections:
            return (await self._compute(job, prepared, score_threshold, Priority.BULK)).value

        try:
            return await predict_in_tiles(
                picture.size,
                lambda tile: picture.pixels(tile, job.options.plane.inputs),
                picture.tiles,
                job.model,
                job.options,
                record=job.record,
                compute=compute,
                extend=extend,
                decode_pool=self.decode_pool,
                postprocess_pool=self.postprocess_pool,
                seen=job.progress.advance,
                memory=self._tiles,
            )
        except BaseExceptionGroup as group:  # what one tile raised, raised for the picture
            raise group.exceptions[0] from None

    async def _compute(
        self, job: Job, prepared: Prepared, score_threshold: float, priority: Priority
    ) -> Computed[RawDetections]:
        task = _Task(job.model, prepared, score_threshold, job.record)
        try:
            bucket = job.model.bucket(prepared.bucket)
            computed = await self.batcher.submit(task, job.model.lane, bucket, job.deadline.at, priority)
        except DeadlinePassedError:
            raise deadline_passed() from None
        except EngineStalledError:
            raise engine_stalled() from None
        except EngineLostError:
            raise engine_lost() from None
        except OutOfMemory as error:
            raise Problem(
                OUT_OF_MEMORY, f"{str(error).capitalize()}; send the image smaller, or try again.", RETRY_OUT_OF_MEMORY
            ) from error
        now = time.time_ns()
        job.record.add("queue", computed.queue_seconds, now - round(computed.run_seconds * 1e9))
        job.record.add("inference", computed.run_seconds, now)
        job.record.batch_size = computed.batch_size
        return computed

    def _on_batch(self, report: BatchReport) -> None:
        self._metrics.batch(
            report.lane.name,
            report.lane.version,
            self.device_names[report.device],
            size=report.size,
            limit=report.limit,
            seconds=report.seconds,
            failed=report.failed,
        )

    def hurry(self) -> None:
        """Nothing more will come: don't wait for fuller batches."""
        self.batcher.hurry()

    def close(self) -> None:
        self.decode_pool.close()
        self.batcher.close()
        self.postprocess_pool.close()


def infer(tasks: Sequence[_Task], device: int) -> Begun[RawDetections]:
    """One run of the network for tasks of one model and bucket, each with its own score threshold."""
    for task in tasks:
        task.record.at = "inference"
    engine = tasks[0].model.engines[device]
    thresholds = np.array([task.score_threshold for task in tasks], np.float32)
    if isinstance(engine, OverlappingEngine):
        valid = np.array([task.prepared.valid for task in tasks], np.int64)
        pending = engine.submit([task.prepared.pixels for task in tasks], valid, thresholds)
        return lambda: _by_image(pending.result(), len(tasks))
    images, sizes = stack([task.prepared for task in tasks])
    return _by_image(engine.run(images, sizes, thresholds), len(tasks))


def _by_image(raw: RawDetections, images: int) -> list[RawDetections]:
    return [raw.of_image(index) for index in range(images)]


def render_timed(
    job: Job, picture: Decoded, render: Callable[[Detected], Rendered], see: Callable[[], Seen]
) -> Rendered:
    """The rendered answer. The stage ends, for the answer's own account of it, where the rendering begins."""
    start = time.perf_counter()
    seen = see()
    job.record.detections = len(seen.detections)
    job.record.add("postprocess", time.perf_counter() - start)
    image = picture.image if job.keep_image else None
    return render(
        Detected(
            job.model,
            picture.size,
            seen,
            job.record,
            image,
            picture.values,
            picture.intensity,
            picture.plane,
            picture.channels,
            picture.pixel_size,
            job.options.scale,
        )
    )


def distinct(devices: tuple[str, ...], turn: int = 0) -> list[str]:
    """The devices' names, numbered where one comes twice: two engines on the CPU are busy each on their own. `turn` is
    how many processes before this one have the same devices.
    """
    seen = [(turn * devices + devices[:index]).count(device) for index, device in enumerate(devices)]
    return [f"{device}#{count}" if count else device for device, count in zip(devices, seen, strict=True)]
