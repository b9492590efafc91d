"""The path of an accepted image: decode pool -> batcher and engine threads -> postprocess pool -> whatever is rendered.

`Pipeline.predict` runs on the event loop and hands work over; the functions below it run on the pools' threads. Only
an answer that is made in less time than handing it over takes is made on the event loop, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import Detections, RawDetections
from model.runtime.engines.engine import OutOfMemory
from model.runtime.images.data import Data
from model.runtime.images.errors import (
    ImageError,
    NoSuchPlane,
    NotAnImage,
    TooManyPixels,
    TooManyPlanes,
    UnknownRange,
    UnsupportedFormat,
    UnsupportedVariant,
)
from model.runtime.images.limits import ImageLimits
from model.runtime.images.picture import PixelSize, Size
from model.runtime.images.pixels import Done, apply, to_pixels
from model.runtime.images.planes import Channels, PlaneAxis
from model.runtime.images.reading import open_picture
from model.runtime.images.regions import PictureByRegion
from model.runtime.preprocess import Prepared, count_wanted, prepare, scaled, stack, to_original
from model.runtime.tiling import Tile
from service.http.problems import (
    DAMAGED_IMAGE,
    INVALID_PARAMETER,
    NOT_AN_IMAGE,
    OUT_OF_MEMORY,
    TOO_MANY_PIXELS,
    UNSUPPORTED_FORMAT,
    Problem,
)
from service.models.catalog import Catalog, ServedModel
from service.observability.metrics import Metrics, ScoreCounts
from service.observability.record import ImageRecord
from service.prediction.answers import Detected, Seen
from service.prediction.no_image import ADVISED, advice
from service.prediction.parameters import MOST_IN_TILES, Options, invalid_parameter
from service.prediction.progress import Progress
from service.prediction.tiles import SECONDS_PER_TILE, InTiles, find_done, predict_in_tiles
from service.scheduling.batcher import Batcher, BatchReport, Computed, DeadlinePassedError
from service.scheduling.gate import Deadline, deadline_passed
from service.scheduling.pool import Pool
from service.scheduling.priority import Priority
from service.settings.settings import Settings

RETRY_OUT_OF_MEMORY = 5
"""Seconds in `Retry-After`."""

SMALL = 2048
"""What an answer may cost that is made on the event loop, in columns of masks: 0.3 ms, or 3 ms if they are ragged."""
COLUMNS_PER_DETECTION = 32
"""What a detection costs besides the columns of its mask."""

Rendered = TypeVar("Rendered")


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One image to predict.

    `encoded` gives the image file; it is called on a decode thread and may raise Problem. Where it `may_take_longer`, a
    picture in tiles extends its request's `deadline`. `keep_image` is for those who draw on it, `keep_values` for those
    who measure its intensities. `is_light` says that rendering only writes down what was found. `progress` is told of
    its tiles.
    """

    model: ServedModel
    encoded: Callable[[], Data]
    options: Options
    deadline: Deadline
    priority: Priority
    record: ImageRecord
    keep_image: bool = False
    keep_values: bool = False
    may_take_longer: bool = False
    is_light: bool = False
    progress: Progress = field(default_factory=Progress)


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """An image of `size` (height, width), as the network takes it: whole, or in tiles. `image` and `values` are there
    where they are needed further on; of a picture that is too large for that, `by_region` is, of which tiles are read.
    `intensity` is what makes 8 bits of its values, `plane` which of a file's planes it is, `channels` which of its
    channels, where they were taken one by one."""

    size: tuple[int, int]
    whole: Prepared | None
    tiles: list[Tile]
    image: NDArray[np.uint8] | None
    values: NDArray[Any] | PictureByRegion | None
    intensity: Done
    plane: tuple[PlaneAxis, ...]
    channels: Channels | None
    pixel_size: PixelSize | None
    by_region: PictureByRegion | None = None

    def pixels(self, tile: Tile, inputs: int) -> NDArray[np.uint8]:
        """uint8 [H, W, inputs] of a tile. Raises ImageError."""
        if self.by_region is not None:
            part = self.by_region.read(tile.top, tile.left, tile.height, tile.width)
            return apply(part, self.intensity, inputs)
        assert self.image is not None
        return np.ascontiguousarray(tile.of(self.image))


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """One image on its way through the network."""

    model: ServedModel
    prepared: Prepared
    score_threshold: float
    record: ImageRecord


class Pipeline:
    """The pools and the batcher, for all models. `predict` and `close` are for the event loop."""

    def __init__(self, catalog: Catalog, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        self._limits = ImageLimits(settings.max_pixels, settings.max_picture_pixels)
        self.decode_pool = Pool(settings.pool_threads, "decode")
        self.postprocess_pool = Pool(settings.pool_threads, "postprocess")
        self.devices = catalog.served[0].devices
        self.device_names = distinct(self.devices)
        self.batcher = Batcher[_Task, RawDetections](infer, devices=len(self.devices), on_batch=self._on_batch)

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
            raw = (await self._compute(job, prepared, job.priority)).value
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

        async def compute(prepared: Prepared) -> RawDetections:
            return (await self._compute(job, prepared, Priority.BULK)).value

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
            )
        except BaseExceptionGroup as group:  # what one tile raised, raised for the picture
            raise group.exceptions[0] from None

    async def _compute(self, job: Job, prepared: Prepared, priority: Priority) -> Computed[RawDetections]:
        task = _Task(job.model, prepared, job.options.score_threshold, job.record)
        try:
            computed = await self.batcher.submit(task, job.model.lane, prepared.bucket, job.deadline.at, priority)
        except DeadlinePassedError:
            raise deadline_passed() from None
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


def decode(job: Job, limits: ImageLimits) -> Decoded:
    """The image as the network takes it, and itself where it is needed. The header's pixel count is checked before
    decoding. Raises ImageError, and Problem where it cannot be seen at the scale asked for."""
    data = job.encoded()
    preprocessing, options = job.model.manifest.preprocessing, job.options
    seen_in_full = job.keep_image or job.keep_values or not options.intensity.keeps_8_bits

    def fit(size: Size) -> Size:  # only where nothing else looks at the pixels
        try:
            in_full = seen_in_full or _plan(job, size, limits)
        except Problem:  # raised again below: in here it would be taken for one of the file's
            in_full = True
        return size if in_full else preprocessing.resized(size, options.scale)

    try:
        picture = open_picture(data, limits, choice=options.plane, fit=fit)
    except NotAnImage as error:
        if said := advice(bytes(data[:ADVISED])):
            raise NotAnImage(f"{error}. {said}") from error
        raise
    if isinstance(picture, PictureByRegion):
        return _to_be_read(job, picture, limits)
    image, applied = to_pixels(picture, job.options.intensity, job.options.plane.inputs)
    size = picture.size
    tiles = _plan(job, size, limits)
    whole = None if tiles else prepare(image, preprocessing, size, options.scale)
    return Decoded(
        size,
        whole,
        tiles,
        image if tiles or job.keep_image else None,
        picture.values if job.keep_values else None,
        applied,
        picture.plane,
        picture.channels,
        job.options.pixel_size or picture.pixel_size,
    )


def _plan(job: Job, size: Size, limits: ImageLimits) -> list[Tile]:
    """The tiles of a picture of `size`, none where it is seen whole. Raises Problem."""
    scale, most = job.options.scale, limits.max_picture_pixels
    if scale is not None and most is not None:
        height, width = scaled(size, scale)
        if height * width > most:
            message = (
                f"at {scale:g} the image has {width} x {height} = {width * height} pixels, and at most {most} are seen "
                f"(max_picture_pixels); ask for a smaller one"
            )
            raise invalid_parameter("scale", message)
    manifest = job.model.manifest
    return job.options.tiling.plan(manifest.architecture, manifest.preprocessing, size, scale)


def _to_be_read(job: Job, picture: PictureByRegion, limits: ImageLimits) -> Decoded:
    """Of a picture that is too large to be decoded at once. Raises TooManyPixels where only that would do."""
    height, width = picture.size
    at_once = (
        f"the image has {width} x {height} = {width * height} pixels and at most {limits.max_pixels} are decoded at "
        f"once (max_pixels)"
    )
    tiles = _plan(job, picture.size, limits)
    if not tiles:
        smaller = "tiles, as in tile=1024" if job.options.scale is None else "smaller tiles, or for a larger scale"
        raise TooManyPixels(f"{at_once}, which seeing it whole would need; ask for {smaller}")
    if max(tile.height * tile.width for tile in tiles) > limits.max_pixels:
        raise TooManyPixels(
            f"{at_once}, fewer than a tile has at the scale asked for; ask for smaller tiles, or for a larger scale"
        )
    if job.keep_image:
        raise TooManyPixels(f"{at_once}, which drawing on it would need; ask for JSON, or for one of the files")
    values = picture if job.keep_values else None
    like = picture.like
    pixel_size = job.options.pixel_size or like.pixel_size
    return Decoded(picture.size, None, tiles, None, values, None, like.plane, like.channels, pixel_size, picture)


def infer(tasks: Sequence[_Task], device: int) -> list[RawDetections]:
    """One run of the network for tasks of one model and bucket, each with its own score threshold."""
    for task in tasks:
        task.record.at = "inference"
    images, sizes = stack([task.prepared for task in tasks])
    thresholds = np.array([task.score_threshold for task in tasks], np.float32)
    raw = tasks[0].model.engines[device].run(images, sizes, thresholds)
    return [raw.of_image(index) for index in range(len(tasks))]


def is_small(job: Job, prepared: Prepared, raw: RawDetections) -> bool:
    """Whether the answer takes less time than a thread takes to begin it: few detections with narrow masks, which only
    have to be written down.
    """
    if not job.is_light or raw.keypoint_heatmaps is not None:
        return False
    columns = float(COLUMNS_PER_DETECTION * len(raw.scores))
    if columns <= SMALL and job.options.masks != "none" and raw.masks is not None:
        scale = prepared.original[1] / prepared.valid[1]
        columns += scale * float((raw.boxes[:, 2] - raw.boxes[:, 0]).sum())
    return columns <= SMALL


def see_whole(job: Job, prepared: Prepared, raw: RawDetections) -> Seen:
    """The detections of an image that the network saw at once."""
    options, manifest = job.options, job.model.manifest
    most = manifest.defaults.max_detections if options.max_detections is None else options.max_detections
    found = count_wanted(raw, labels=options.label_ids, score_thresholds=options.score_thresholds)
    detections = to_original(
        raw,
        prepared,
        max_detections=most,
        labels=options.label_ids,
        score_thresholds=options.score_thresholds,
        want_masks=options.masks != "none",
    )
    return Seen(detections, found > most or len(raw.scores) >= manifest.architecture.detections_per_image)


def see_tiles(job: Job, in_tiles: InTiles) -> Seen:
    """The best detections of a picture in tiles."""
    most = MOST_IN_TILES if job.options.max_detections is None else job.options.max_detections
    found = in_tiles.detections
    best = Detections(
        found.boxes[:most],
        found.scores[:most],
        found.labels[:most],
        None if found.masks is None or job.options.masks == "none" else found.masks[:most],
        None if found.keypoints is None else found.keypoints[:most],
    )
    return Seen(best, len(found) > most or in_tiles.full, in_tiles.tiles)


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


def score_counts_of(
    job: Job, scores: NDArray[np.float32], labels: NDArray[np.int64]
) -> list[tuple[str, ScoreCounts]] | None:
    """By label, the scores that an image has at the model's own thresholds, whatever the request asked for.

    None where they are not known: the request's threshold kept the network from finding all, or the scale was its
    choice. (Tiles, whose scale is that, too, are not counted at all.)
    """
    model, defaults = job.model, job.model.manifest.defaults
    own = model.score_thresholds
    lowest = defaults.score_threshold if own is None else float(own[1:].min())
    if job.options.score_threshold > lowest or job.options.scale is not None:
        return None
    kept = scores > (np.float32(lowest) if own is None else own[labels])
    scores, labels = scores[kept][: defaults.max_detections], labels[kept][: defaults.max_detections]
    return [
        (model.label_names[label], ScoreCounts.of(scores[labels == label])) for label in sorted(set(labels.tolist()))
    ]


def distinct(devices: tuple[str, ...]) -> list[str]:
    """The devices' names, numbered where one comes twice: two engines on the CPU are busy each on their own."""
    seen = [devices[:index].count(device) for index, device in enumerate(devices)]
    return [f"{device}#{count}" if count else device for device, count in zip(devices, seen, strict=True)]


def as_problem(error: ImageError) -> Problem:
    """What whoever sent the image is told."""
    kind = DAMAGED_IMAGE
    if isinstance(error, NotAnImage):
        kind = NOT_AN_IMAGE
    elif isinstance(error, UnsupportedFormat | UnsupportedVariant):
        kind = UNSUPPORTED_FORMAT
    elif isinstance(error, TooManyPixels):
        kind = TOO_MANY_PIXELS
    elif isinstance(error, UnknownRange | NoSuchPlane | TooManyPlanes):
        kind = INVALID_PARAMETER
    return Problem(kind, str(error))
