"""A few threads for work that must not run on the event loop, handed out by priority."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.priority import Priority, Turns

Result = TypeVar("Result")


class Pool:
    """Work waits here and not in the threads' own queue, where nothing could be taken out again or overtake.

    Belongs to the event loop's thread.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = threads
        self._waiting: dict[Priority, deque[asyncio.Future[None]]] = {priority: deque() for priority in Priority}
        self._turns = Turns()

    async def run(self, work: Callable[[], Result], priority: Priority) -> tuple[Result, float]:
        """The work's result, and the seconds that it took without those that it waited for a thread.

        Cancelling it while it waits takes it out. Raises what `work` raises.
        """
        loop = asyncio.get_running_loop()
        await self._turn(priority)

        def timed() -> tuple[Result, float]:
            start = time.perf_counter()
            result = work()
            return result, time.perf_counter() - start

        def leave(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                loop.call_soon_threadsafe(self._leave)

        running = self._threads.submit(timed)
        # Not when the caller is cancelled: the thread is free only when the work has ended.
        running.add_done_callback(leave)
        return await asyncio.wrap_future(running)

    def close(self) -> None:
        """Let the threads end. Work that runs is finished first."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _turn(self, priority: Priority) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[priority].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave()  # cancelled with its turn in its hand: pass it on
            elif turn in self._waiting[priority]:
                self._waiting[priority].remove(turn)
            raise

    def _leave(self) -> None:
        for turns in self._waiting.values():
            while turns and turns[0].cancelled():  # a moment ago: its owner has not come to take it out
                turns.popleft()
        if waiting := {priority for priority, turns in self._waiting.items() if turns}:
            self._waiting[self._turns.choose(waiting)].popleft().set_result(None)
        else:
            self._free += 1
