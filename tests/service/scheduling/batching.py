"""What the tests of the batcher share: an engine whose every batch the test lets go by hand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from tests.patience import PATIENCE


class Engine:
    """Records the batches that it is given. While `held`, a batch stays on the engine until `release`."""

    def __init__(self, held: bool = False) -> None:
        self.batches: list[list[str]] = []
        self.held = held
        self._permits = threading.Semaphore(0)

    def __call__(self, items: Sequence[str], device: int = 0) -> list[str]:
        self.batches.append(list(items))
        if self.held and not self._permits.acquire(timeout=PATIENCE):
            raise TimeoutError("the test never released this batch")
        if "bad" in items:
            raise ValueError("a bad item")
        return [item.upper() for item in items]

    def release(self, batches: int = 1) -> None:
        self._permits.release(batches)

    async def has_begun(self, batches: int) -> None:
        """Wait until so many batches have reached the engine."""
        await until(lambda: len(self.batches) >= batches)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "never happened"
        await asyncio.sleep(0.001)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


def start(*work: Awaitable[Any]) -> list[asyncio.Future[Any]]:
    return [asyncio.ensure_future(one) for one in work]
