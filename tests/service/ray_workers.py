"""Workers of `predict-many --ray` that a test can hold, or that differ. Ray's processes import this and little else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from service.client.command.coco_ids import ImageId
from service.predict_many.sources import Image
from service.predict_many.starting import Known
from service.predict_many.worker import Order, Part, Worker
from tests.service.holding import FOLDER, install


class HoldingWorker(Worker):
    """Says which process it is, and keeps marked images on its engine as long as a test wants."""

    kind = "worker"

    async def load(self) -> Known:
        install()
        return await super().load()

    async def predict(self, images: Sequence[tuple[Image, ImageId]], plan: str) -> Part:
        # Who is given images is known to have loaded its model: whose end before that is another case.
        (Path(os.environ[FOLDER]) / f"{self.kind}-{os.getpid()}").touch()
        return await super().predict(images, plan)


class OfTheSecondRun(HoldingWorker):
    """Told from those of a run that was killed, which may go on for a while."""

    kind = "again"


class WithoutModels(Worker):
    """As on a node where the folder is not."""

    def __init__(self, order: Order, cpus: int) -> None:
        settings = order.asked.settings.model_copy(update={"models": Path("/nowhere/models")})
        super().__init__(replace(order, asked=replace(order.asked, settings=settings)), cpus)


class OfAnEngineOfItsOwn(HoldingWorker):
    """As on nodes of several kinds."""

    async def load(self) -> Known:
        known = await super().load()
        model = known.plan.model.model_copy(update={"engine": f"engine-{os.getpid()}"})
        return replace(known, plan=known.plan.model_copy(update={"model": model}))
