"""Batches through an engine without a pause: meanwhile the next one is queued, and the last one's masks are encoded."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.gpu.case import Batch
from benchmarks.gpu.contenders import Skip
from model.network.serving.engine import StaticEngine
from model.network.serving.pending import Pending
from model.runtime.detections import RawDetections

Post = Callable[[RawDetections], list[Future[int]]]

AHEAD = 2
"""Batches queued on the GPU: one runs, the next one's upload follows it at once."""


@dataclass(frozen=True)
class Pipeline:
    """Images a second of one engine at one batch size: queued alone, and with every mask encoded to RLE in threads."""

    batch: int
    threads: int
    engine: float
    with_masks: float
    masks_encoded: int


def run_pipeline(engine: StaticEngine, batch: Batch, size: tuple[int, int], batches: int) -> Pipeline:
    """`size`: (height, width) of each image as seen. Skip when the mask kernel's compiler is missing."""
    try:
        from model.runtime.kernels.masks import encode_masks, warm_up
    except ImportError as error:
        raise Skip(f"encoding masks needs a package that is not installed: {error}") from error
    warm_up()

    def encode(raw: RawDetections, index: int) -> int:
        image = raw.of_image(index)
        assert image.masks is not None
        return len(encode_masks(image.masks, image.boxes, size))

    threads = max(1, (os.cpu_count() or 2) - 2)
    _pump(engine, batch, 2, None)
    alone, _ = _pump(engine, batch, batches, None)
    with ThreadPoolExecutor(threads) as pool:

        def post(raw: RawDetections) -> list[Future[int]]:
            return [pool.submit(encode, raw, index) for index in range(len(batch))]

        seconds, futures = _pump(engine, batch, batches, post)
    images = batches * len(batch)
    return Pipeline(len(batch), threads, images / alone, images / seconds, sum(future.result() for future in futures))


def _pump(engine: StaticEngine, batch: Batch, batches: int, post: Post | None) -> tuple[float, list[Future[int]]]:
    pending: deque[Pending] = deque()
    futures: list[Future[int]] = []
    start = time.perf_counter()
    for number in range(batches + AHEAD):
        if number < batches:
            pending.append(engine.submit_tensors(batch.images, batch.sizes, batch.thresholds))
        if number >= AHEAD:
            raw = pending.popleft().result()
            if post is not None:
                futures += post(raw)
    for future in futures:
        future.result()
    return time.perf_counter() - start, futures
