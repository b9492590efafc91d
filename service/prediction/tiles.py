"""A large picture's way through the network: in tiles, as bulk work, and one answer of theirs.

Tiles are read while they are needed, so that a picture waits with few of them in the queue, and other requests go
between. What was found in them is kept as RLE. A tile with more objects than the network surely finds at once is seen
again in smaller ones, whatever threshold the request has.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import Detections, RawDetections
from model.runtime.images.picture import Size
from model.runtime.images.regions import Part, PictureByRegion
from model.runtime.images.values.intensity import Intensity
from model.runtime.images.values.pixels import Done, DoneSearch
from model.runtime.merging import SURE_SHARE, merge_tiles
from model.runtime.preprocess import Prepared, prepare, to_original
from model.runtime.sightings import TileAnswer
from model.runtime.tiling import Tile, smaller_tiles
from service.models.catalog import ServedModel
from service.observability.record import ImageRecord
from service.prediction.parameters import Options
from service.prediction.remembered import Key, SeenTile, TileMemory
from service.scheduling.pool import Pool
from service.scheduling.priority import Priority

IN_QUEUE = 2
"""Batches of tiles of one picture that may wait or run for each device: one computes while the next is prepared."""
SECONDS_PER_TILE = 5.0
"""What a picture's deadline is later for each of its tiles."""

Compute = Callable[[Prepared, float], Awaitable[RawDetections]]
See = Callable[[Tile], Awaitable[None]]


@dataclass(frozen=True, slots=True, eq=False)
class InTiles:
    """What became of a picture: its detections, how many tiles were seen, and whether one of the smallest could not
    give all that is asked for."""

    detections: Detections
    tiles: int
    full: bool


async def find_done(picture: PictureByRegion, intensity: Intensity, decode_pool: Pool) -> Done:
    """What makes 8 bits of the picture's values, of which all are read, a band at a time. Raises ImageError."""
    height, width = picture.size
    search = DoneSearch(picture.like, height * width, intensity)
    if search.is_done:
        return search.found()
    for band in picture.bands():
        await decode_pool.run(partial(_count, picture, band, search), Priority.BULK)
    done, _ = await decode_pool.run(search.found, Priority.BULK)
    return done


def _count(picture: PictureByRegion, band: Part, search: DoneSearch) -> None:
    search.add(picture.read(band.top, band.left, band.height, band.width).values)


async def predict_in_tiles(
    size: Size,
    read: Callable[[Tile], NDArray[np.uint8]],
    tiles: list[Tile],
    model: ServedModel,
    options: Options,
    *,
    record: ImageRecord,
    compute: Compute,
    extend: Callable[[int], None],
    decode_pool: Pool,
    postprocess_pool: Pool,
    seen: Callable[[], None],
    memory: TileMemory,
) -> InTiles:
    """Detect in a picture of `size` (height, width), tile by tile. `read` gives a tile's pixels, uint8 [H, W, C], on a
    decode thread, and `compute` runs the network on one image at a score threshold. `extend` gives the picture the time
    of so many tiles.

    `seen` is told of each tile. What `memory` knows of one is not computed again; in the end it knows all that were
    seen. Cancelling takes the tiles out of the queue. Raises what `read` and `compute` raise.
    """
    extend(len(tiles))
    at_once = IN_QUEUE * len(model.engines) * model.lane.max_batch_size
    architecture, preprocessing = model.manifest.architecture, model.manifest.preprocessing
    scale, own = options.scale, model.manifest.score_thresholds
    wanted = options.score_thresholds
    if wanted is None:
        wanted = np.full(len(own), options.score_threshold, np.float32)
    sure = own * np.float32(SURE_SHARE)
    merged_from = np.minimum(wanted, sure)
    if options.label_ids is not None:
        merged_from[[label for label in range(len(own)) if label not in options.label_ids]] = np.inf
    least = min(options.score_threshold, float(sure[1:].min()))
    answers: list[TileAnswer] = []
    learned: dict[Key, SeenTile] = {}
    waiting = deque(tiles)
    split: set[Tile] = set()
    working, cut_off = 0, False

    def prepare_tile(tile: Tile) -> tuple[Prepared, Key]:
        prepared = prepare(read(tile), preprocessing, scale=scale)
        return prepared, memory.key_of(model, prepared)

    async def see(tile: Tile) -> None:
        nonlocal cut_off
        (prepared, key), seconds = await decode_pool.run(partial(prepare_tile, tile), Priority.BULK)
        record.add("decode", seconds)
        known, raw = memory.recall(key, least), None
        if known is None:
            raw = await compute(prepared, least)
            known = SeenTile(least, raw.scores, raw.labels)
        scores, labels = known.above(least)
        # What the request asks for splits no tile: its answer is a part of that of a request that asks for more.
        some, certain = (int((scores > thresholds[labels]).sum()) for thresholds in (sure, own))
        parts = smaller_tiles(tile, some, certain, architecture, preprocessing, scale)
        full = len(scores) >= architecture.detections_per_image
        cut_off |= full and not parts and bool(scores[-1] > options.score_threshold)
        if not known.holds(merged_from):
            raw = raw or await compute(prepared, least)
            detections, seconds = await postprocess_pool.run(
                partial(_detections, raw, prepared, merged_from), Priority.BULK
            )
            record.add("postprocess", seconds)
            known = SeenTile(least, raw.scores, raw.labels, detections, merged_from)
        assert known.detections is not None
        complete_above = np.inf if parts else float(scores[-1]) if full else 0.0
        answers.append(TileAnswer(tile, _above(known.detections, merged_from), complete_above))
        learned[key] = known
        smaller = [part for part in parts if part not in split]  # neighbors that are split may share some
        split.update(smaller)
        waiting.extend(smaller)
        extend(len(smaller))
        seen()

    # These two know of each other, and stay until a garbage collection. They are handed `see`: it knows of the pixels.
    async def work(see: See) -> None:
        nonlocal working
        while waiting:
            await see(waiting.popleft())
            go_on(see)
        working -= 1

    def go_on(see: See) -> None:
        """As many at work as may be, of few tasks: those of all tiles would take long to begin, and much memory."""
        nonlocal working
        for _ in range(min(at_once - working, len(waiting))):
            working += 1
            group.create_task(work(see))

    try:
        async with asyncio.TaskGroup() as group:
            go_on(see)
    finally:  # who tries again after a deadline begins where it came
        memory.remember(learned)

    def merge() -> Detections:
        asks_for_more = bool((merged_from < sure)[1:].any())
        return _above(merge_tiles(size, answers, scale or 1.0, sure if asks_for_more else None), wanted)

    merged, seconds = await postprocess_pool.run(merge, Priority.BULK)
    record.add("postprocess", seconds)
    return InTiles(merged, len(answers), cut_off)


def _above(found: Detections, score_thresholds: NDArray[np.float32]) -> Detections:
    """What scores more than its label's threshold; float32 by label id."""
    rows = np.flatnonzero(found.scores > score_thresholds[found.labels])
    return found if len(rows) == len(found) else _rows(found, rows)


def _rows(found: Detections, rows: NDArray[np.intp]) -> Detections:
    return Detections(
        found.boxes[rows],
        found.scores[rows],
        found.labels[rows],
        None if found.masks is None else [found.masks[row] for row in rows],
        None if found.keypoints is None else found.keypoints[rows],
    )


def _detections(raw: RawDetections, prepared: Prepared, score_thresholds: NDArray[np.float32]) -> Detections:
    return to_original(
        raw,
        prepared,
        score_thresholds=score_thresholds,
        want_masks=True,  # without them two halves of an object could not be told from two objects
    )
