"""What a node of a Ray cluster does: a plain run's work, one shard after the other. Imports nothing of Ray."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from service.client.command.coco_ids import ImageId
from service.client.command.inputs import UsageError
from service.predict_many.command_line import Asked
from service.predict_many.plan import Listing
from service.predict_many.predicting import Predictor, Streak, in_turn
from service.predict_many.shards import to_parquet
from service.predict_many.sources import Image
from service.predict_many.starting import Known, load, prepare_process
from service.settings.settings import usable_cpus


@dataclass(frozen=True, slots=True)
class Order:
    """What every node is told. `seen` are files that must be there as they are where the command was given."""

    asked: Asked
    listing: Listing
    seen: Sequence[Path]
    are_remote: bool
    text_ids: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A shard's file. is_settled: False while the engine failed on its last images, and the next may show that it is
    not the images' fault."""

    content: bytes
    failed: int
    is_settled: bool


class Worker:
    """The model on one node, with `cpus` of its processors. An asyncio actor: `predict` runs several times at once."""

    def __init__(self, order: Order, cpus: int) -> None:
        self._order = order
        self._cpus = cpus
        self._streak = Streak()

    async def load(self) -> Known:
        """Raises UsageError and InvalidSettingsError."""
        order, settings = self._order, self._order.asked.settings
        if missing := next((path for path in order.seen if not os.path.lexists(path)), None):
            raise UsageError(f"it has no {missing}: images must be on all nodes, under one path, or in a store")
        if settings.engine_threads == "auto" and self._cpus < usable_cpus():
            settings = settings.model_copy(update={"engine_threads": max(1, self._cpus)})
        prepare_process()
        loaded, known = load(replace(order.asked, settings=settings), order.listing, lambda line: None)
        self._label_names = known.label_names
        self._predictor = Predictor(loaded, are_remote=order.are_remote)
        return known

    async def predict(self, images: Sequence[tuple[Image, ImageId]], plan: str) -> Part:
        """The shard of these images, of the plan with this digest. Raises StoreError and EngineFailing."""
        works = (partial(self._predictor.predict, *one) for one in images)
        rows = []
        async with aclosing(in_turn(works, self._predictor)) as found:
            async for row in found:
                rows.append(row)
                self._streak.judge(row)
        content = await asyncio.to_thread(to_parquet, rows, self._label_names, plan, text_ids=self._order.text_ids)
        return Part(content, sum(row.error is not None for row in rows), not self._streak.length)
