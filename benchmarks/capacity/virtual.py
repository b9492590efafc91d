"""Virtual time for the service's scheduling code: nothing sleeps, and threads take the time that they are told to."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar
from unittest import mock

from service.scheduling import batcher, device, gate, pool, threads

Result = TypeVar("Result")


class _Selector(selectors.SelectSelector):
    """Waits for nothing: the clock goes on instead."""

    clock: Clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and nothing will ever happen"
        self.clock.now += max(timeout, 0.0)
        return []


class Clock:
    """Stands for the module `time` too. `spend` is for work on a thread, which is done at once: what it tells the loop
    arrives so much later."""

    def __init__(self) -> None:
        self.now = 0.0
        self._spent = 0.0

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now + self._spent

    def spend(self, seconds: float) -> None:
        self._spent += seconds

    def taken(self) -> float:
        """What was spent since this was last asked."""
        spent, self._spent = self._spent, 0.0
        return spent


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        selector = _Selector()
        selector.clock = clock
        self._clock = clock
        super().__init__(selector)

    def time(self) -> float:
        return self._clock.now

    def call_soon_threadsafe(  # type: ignore[override]  # typeshed's has a type for each argument
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_later(self._clock.taken(), callback, *args, context=context)


class _Threads:
    """In the place of `Threads`, whose callers see to it that a thread has one piece of work at a time."""

    def __init__(self, count: int, name: str) -> None:
        pass

    submit = threads.Threads.submit

    def hand_over(self, run: Callable[[], None]) -> None:
        run()

    def close(self) -> None:
        pass


def in_virtual_time(work: Callable[[Clock], Coroutine[Any, Any, Result]]) -> Result:
    """What `work` returns, on a loop and with threads of its own clock."""
    clock = Clock()
    loop = _Loop(clock)
    modules = (batcher, device, gate, threads)
    try:
        with (
            mock.patch.multiple(device, Threads=_Threads),
            mock.patch.multiple(pool, Threads=_Threads),
            mock.patch.object(modules[0], "time", clock),
            mock.patch.object(modules[1], "time", clock),
            mock.patch.object(modules[2], "time", clock),
            mock.patch.object(modules[3], "time", clock),
        ):
            return loop.run_until_complete(work(clock))
    finally:
        loop.close()
