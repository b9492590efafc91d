"""Many at a time, one after the other: work runs in parallel, its results come in the order of what they are for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4
"""How many finished results may wait, for each worker, for a slow one before them."""


async def in_order(
    items: Iterable[Item],
    work: Callable[[Item], Awaitable[Result]],
    emit: Callable[[Result], None],
    jobs: int,
) -> None:
    """Do `work` on every item, `jobs` of them at a time, and `emit` the results in the items' order as they come.

    Memory holds for any number of items: at most `jobs` * (1 + AHEAD) are begun and not yet emitted. When `work` or
    `emit` raises, or this is cancelled, what is finished by then is still emitted, in order, and the rest is dropped.
    """
    slots = asyncio.Semaphore(jobs)
    begun: deque[asyncio.Task[Result]] = deque()

    async def one(item: Item) -> Result:
        async with slots:
            return await work(item)

    async def emit_first() -> None:
        await asyncio.wait([begun[0]])  # which leaves it running if this is cancelled
        emit(begun.popleft().result())

    try:
        for item in items:
            begun.append(asyncio.create_task(one(item)))
            if len(begun) == jobs * (1 + AHEAD):
                await emit_first()
        while begun:
            await emit_first()
    finally:
        for task in begun:
            task.cancel()  # without effect on what is finished
        for result in await asyncio.gather(*begun, return_exceptions=True):
            if not isinstance(result, BaseException):
                emit(result)
