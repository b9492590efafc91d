"""A large picture's way through the network: in tiles, as bulk work, and one answer of theirs.

Tiles are cut while they are needed, so that a picture waits with few of them in the queue, and other requests go
between. A tile with as many detections as the network can give is seen again in smaller ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import Detections, RawDetections
from model.runtime.preprocess import Prepared, prepare, to_original
from model.runtime.tiling import LEAST, Tile, TileAnswer, merge_tiles, split
from service.models.catalog import ServedModel
from service.prediction.parameters import Options
from service.scheduling.pool import Pool
from service.scheduling.priority import Priority

IN_QUEUE = 2
"""Batches of tiles of one picture that may wait or run for each device: one computes while the next is prepared."""
SECONDS_PER_TILE = 5.0
"""What a picture's deadline is later for each of its tiles."""

Compute = Callable[[Prepared], Awaitable[RawDetections]]


@dataclass(frozen=True, slots=True, eq=False)
class InTiles:
    """What became of a picture: its detections, how many tiles were seen, and whether one of the smallest was full."""

    detections: Detections
    tiles: int
    full: bool


async def predict_in_tiles(
    picture: NDArray[np.uint8],
    tiles: list[Tile],
    model: ServedModel,
    options: Options,
    *,
    compute: Compute,
    decode_pool: Pool,
    postprocess_pool: Pool,
) -> InTiles:
    """Detect in a picture, uint8 [H, W, 3], tile by tile. `compute` runs the network on one image.

    Cancelling it takes its tiles out of the queue. Raises what `compute` raises.
    """
    size = (picture.shape[0], picture.shape[1])
    free = asyncio.Semaphore(IN_QUEUE * len(model.engines) * model.lane.max_batch_size)
    most = model.manifest.architecture.detections_per_image
    answers: list[TileAnswer] = []

    async def see(tile: Tile) -> None:
        async with free:
            prepared, _ = await decode_pool.run(lambda: _prepared(picture, tile, model), Priority.BULK)
            raw = await compute(prepared)
            full = len(raw.scores) >= most
            smaller = split(tile) if full and min(tile.height, tile.width) >= 2 * LEAST else []
            if not smaller:
                detections, _ = await postprocess_pool.run(lambda: _detections(raw, prepared, options), Priority.BULK)
                answers.append(TileAnswer(tile, detections, full))
        for part in smaller:
            group.create_task(see(part))

    async with asyncio.TaskGroup() as group:
        for tile in tiles:
            group.create_task(see(tile))
    merged, _ = await postprocess_pool.run(lambda: merge_tiles(size, answers), Priority.BULK)
    return InTiles(merged, len(answers), any(answer.full for answer in answers))


def _prepared(picture: NDArray[np.uint8], tile: Tile, model: ServedModel) -> Prepared:
    return prepare(np.ascontiguousarray(tile.of(picture)), model.manifest.preprocessing)


def _detections(raw: RawDetections, prepared: Prepared, options: Options) -> Detections:
    return to_original(
        raw,
        prepared,
        labels=options.label_ids,
        score_thresholds=options.score_thresholds,
        want_masks=True,  # without them two halves of an object could not be told from two objects
    )
