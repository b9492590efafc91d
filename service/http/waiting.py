"""Waits for an answer no longer than the client does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

Answer = TypeVar("Answer")


async def while_connected(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run `work` until it is done or the client has left: then it is cancelled and ClientDisconnect raised.

    The request's body must have been read.
    """
    limit = asyncio.timeout(None)
    watching = asyncio.create_task(_watch(request, limit))
    try:
        async with limit:
            return await work
    except TimeoutError:
        if not limit.expired():  # somebody else's
            raise
        raise ClientDisconnect from None
    finally:
        watching.cancel()


async def _watch(request: Request, limit: asyncio.Timeout) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    limit.reschedule(0)  # long ago, on the loop's clock
