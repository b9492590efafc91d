"""All planes of one file: read when they are needed, a few at a time, and answered in the file's order."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Final, TypeVar

from model.runtime.images.data import Data
from model.runtime.images.errors import ImageError
from model.runtime.images.planes import PlaneChoice, Planes
from model.runtime.images.reading import planes_of
from service.prediction.decoding import as_problem
from service.prediction.intake import Visit
from service.prediction.tiles import IN_QUEUE

SECONDS_PER_PLANE: Final = 5.0
"""What a request's deadline is later for each plane but the first."""

Result = TypeVar("Result")


def find_planes(visitor: Visit, data: Data, choice: PlaneChoice) -> Planes:
    """Those that `choice` leaves open. For the decode threads. Raises Problem."""
    try:
        return planes_of(data, choice=choice, most=visitor.lifecycle.settings.max_planes)
    except ImageError as error:
        raise as_problem(error) from error


def planes_at_once(visitor: Visit, planes: Planes) -> int:
    """As many as keep the devices busy, but no more pixels together than one image may have."""
    busy = IN_QUEUE * len(visitor.model.engines) * visitor.model.lane.max_batch_size
    return max(1, min(busy, visitor.lifecycle.settings.max_pixels // max(planes.pixels, 1)))


async def in_order(
    works: Iterable[Callable[[], Awaitable[Result]]], at_once: int | None = None, patience: float | None = None
) -> AsyncGenerator[Result | None, None]:
    """The results in the order of the works, of which at most so many are begun and not yet given out; None: all.

    patience: seconds after which None is given out where the next result is not there. What one raises ends all of
    them, and so does closing it.
    """
    begun: deque[asyncio.Future[Result]] = deque()
    left = iter(works)
    try:
        while True:
            room = None if at_once is None else at_once - len(begun)
            begun.extend(asyncio.ensure_future(work()) for work in itertools.islice(left, room))
            if not begun:
                return
            await asyncio.wait([begun[0]], timeout=patience)
            yield begun.popleft().result() if begun[0].done() else None
    finally:
        for one in begun:
            one.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
