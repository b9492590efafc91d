"""Predicts what is missing of a run: images in parallel through the service's pipeline, shards written in order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final

from model.runtime.engines.engine import DeviceLost
from model.runtime.images.data import Data
from service.client.command.coco_ids import ImageId
from service.http.problems import ENGINE_LOST, ENGINE_STALLED, INTERNAL, OUT_OF_MEMORY, Problem
from service.models.catalog import ServedModel
from service.observability.metrics import Metrics
from service.observability.record import ImageRecord
from service.predict_many.display import Display
from service.predict_many.plan import Plan
from service.predict_many.shards import Row, part_name, to_parquet
from service.predict_many.sources import Image, Images, UnreadableError
from service.predict_many.starting import Loaded
from service.predict_many.stores import Folder, StoreError
from service.prediction.decoding import Job
from service.prediction.pipeline import Pipeline
from service.prediction.planes import in_order
from service.scheduling.gate import Deadline
from service.scheduling.pool import Pool
from service.scheduling.priority import Priority

UNREADABLE: Final = "unreadable-file"
"""The kind of error of an image that never came to be looked at; the others are the service's problems."""
FETCHES: Final = 16
"""Objects that are fetched at a time: a store's answer takes long, however fast it is then."""
WAITING: Final = 2
"""Batches that may wait for each device while one is computed, and images for each thread of a pool."""
AHEAD: Final = 4
"""How many rows, for each image that is worked on, may wait for a slow one before them."""
OF_THE_ENGINE: Final = (INTERNAL.slug, OUT_OF_MEMORY.slug)
FAILING: Final = 16
"""So many images in a row on which the engine fails are not the images' fault."""


@dataclass(frozen=True, slots=True)
class Run:
    """One model, one list, one folder."""

    plan: Plan
    images: Images
    folder: Folder
    loaded: Loaded


class EngineFailing(Exception):
    """The engine fails on one image after the other, hangs, or has lost its device; the message is one line."""


class Streak:
    """How many images in a row, up to the last, the engine failed on: until it ends, the images may not be to blame."""

    def __init__(self) -> None:
        self.length = 0

    def judge(self, row: Row) -> None:
        """The next one. Raises EngineFailing at the end of patience."""
        self.length = self.length + 1 if row.error in OF_THE_ENGINE else self.length if row.error else 0
        if self.length == FAILING:
            said = f"the engine failed on {self.length} images in a row, last on {row.name}: {row.detail}"
            raise EngineFailing(said)


async def predict_shards(run: Run, shards: Sequence[int], display: Display) -> None:
    """Predict and write these shards. What is finished stays, whatever ends this.

    Raises StoreError, EngineFailing, and OSError where a shard cannot be written.
    """
    names, text_ids = run.loaded.catalog.find().label_names, run.images.has_text_ids

    def write(shard: int, rows: Sequence[Row]) -> None:
        run.folder.write(part_name(shard), to_parquet(rows, names, run.plan.digest, text_ids=text_ids))

    left, streak = list(shards), Streak()
    rows: list[Row] = []
    full: list[tuple[int, list[Row]]] = []
    writing: asyncio.Future[None] | None = None
    predictor = Predictor(run.loaded, are_remote=run.images.are_remote)
    indexes = (index for shard in shards for index in run.plan.images_of(shard))
    works = (partial(predictor.predict, run.images.images[index], run.images.image_id(index)) for index in indexes)
    try:
        async with aclosing(in_turn(works, predictor)) as found:
            async for row in found:
                rows.append(row)
                display.advance(failed=row.error is not None)
                streak.judge(row)
                if len(rows) == len(run.plan.images_of(left[0])):
                    full.append((left.pop(0), rows))
                    rows = []
                if streak.length and left:
                    continue  # whether the images are to blame will be seen: until then nothing about them is written
                for shard, complete in full:
                    if writing is not None:
                        await writing  # one at a time, while the next images are computed
                    writing = asyncio.ensure_future(asyncio.to_thread(write, shard, complete))
                full.clear()
        if writing is not None:
            await writing
    finally:
        if writing is not None:
            await asyncio.wait([writing])  # a shard that is complete is kept
        predictor.close()


async def in_turn(works: Iterable[Callable[[], Awaitable[Row]]], predictor: Predictor) -> AsyncGenerator[Row, None]:
    """The rows in the order of the works, as many of which are under way as keep the predictor busy."""
    async with aclosing(in_order(works, predictor.at_once * (1 + AHEAD))) as found:
        async for row in found:
            assert row is not None, "it is waited for without an end"
            yield row


class Predictor:
    """The pipeline, with a limit to the images that are in it. Belongs to the event loop. are_remote: images are
    fetched from a store."""

    def __init__(self, loaded: Loaded, *, are_remote: bool) -> None:
        self._options = loaded.options
        self._model = model = loaded.catalog.find()
        self._pipeline = Pipeline(loaded.catalog, loaded.settings, Metrics())
        self._lost = ""
        self._pipeline.on_loss = self._on_loss
        self._fetching = Pool(FETCHES, "fetch") if are_remote else None
        computed = model.lane.max_batch_size * len(model.engines)
        threads = 2 * loaded.settings.pool_threads + (FETCHES if self._fetching else 0)
        self.at_once = (1 + WAITING) * computed + threads
        self._slots = asyncio.Semaphore(self.at_once)
        self._patience = loaded.settings.stall_seconds or math.inf

    async def predict(self, image: Image, image_id: ImageId) -> Row:
        """What becomes of one image. Raises StoreError, and EngineFailing where the engine hangs or is lost."""
        failed = partial(Row, image.name, image_id)
        try:
            async with self._slots:
                return await self._predict(image, image_id)
        except UnreadableError as error:
            return failed(error=UNREADABLE, detail=f"The file cannot be read: {error}.")
        except Problem as problem:
            if problem.kind is ENGINE_STALLED:  # it computes nothing from now on, and the images are not to blame
                raise EngineFailing(self._why_stalled(image)) from None
            if problem.kind is ENGINE_LOST:
                raise EngineFailing(
                    f"the device has failed, at {image.name} or an image near it: {self._lost}"
                ) from None
            return failed(error=problem.kind.slug, detail=problem.detail)
        except StoreError:
            raise
        except Exception as error:  # whatever an engine raises on one image, the others are good
            said = " ".join(str(error).split())
            return failed(error=INTERNAL.slug, detail=f"{type(error).__name__}: {said}")

    async def _predict(self, image: Image, image_id: ImageId) -> Row:
        read: Callable[[], Data] = image.read
        if self._fetching is not None:
            data, _ = await self._fetching.run(image.read, Priority.BULK)
            read = partial(_given, data)
        async with asyncio.timeout(None) as limit:
            deadline = Deadline(limit, math.inf)
            job = Job(self._model, read, self._options, deadline, Priority.BULK, ImageRecord(), is_light=True)
            return await self._pipeline.predict(job, partial(Row.of, image.name, image_id))

    def _on_loss(self, model: ServedModel, device: int, error: DeviceLost) -> None:
        self._lost = str(error)

    def _why_stalled(self, image: Image) -> str:
        return (
            f"the engine has not ended a run in {self._patience:g} s, at {image.name} or an image near it; where it is "
            f"slow and no more, --engine-stall-ms allows longer (0: as long as it takes)"
        )

    def close(self) -> None:
        self._pipeline.close()
        if self._fetching is not None:
            self._fetching.close()


def _given(data: Data) -> Data:
    return data
