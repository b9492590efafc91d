"""Puts a fresh engine in the place of one that hangs."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from model.runtime.engines.engine import DeviceLost, Engine
from service.models.background import in_background
from service.models.catalog import Catalog, ServedModel
from service.models.loading import Loader
from service.settings.settings import Settings

RETRY_SECONDS: Final = 1.0
"""Between two attempts."""

logger = logging.getLogger(__name__)


async def replace_engine(catalog: Catalog, settings: Settings, model: ServedModel, device: int) -> None:
    """Return when the model's engine on that device is a fresh one, loaded on a thread of its own, or when the model is
    no longer served. What fails is tried again, for as long as it takes. Raises DeviceLost, where that is in vain.

    The old engine is not closed: a thread is stuck in it.
    """
    began, told = time.monotonic(), ""
    logger.error("a run of %s on %s hangs; its engine is replaced", model, model.devices[device])

    def start() -> Engine:
        return Loader(settings).start_engine(model, device)

    while model in catalog.served:
        try:
            engine = await asyncio.wrap_future(in_background(start))
        except DeviceLost:
            raise
        except Exception as error:  # whatever it is, the server is of no use without the engine
            if str(error) != told:
                logger.error("%s has no engine on %s: %s", model, model.devices[device], error)
            told = str(error)
            await asyncio.sleep(RETRY_SECONDS)
            continue
        model.replace(device, engine)
        logger.warning("%s has a fresh engine on %s, after %.1f s", model, engine.device, time.monotonic() - began)
        return
