"""A few threads for work that must not run on the event loop, handed out by priority."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import TypeVar

from service.scheduling.priority import Priority, Turns
from service.scheduling.threads import Outcome, Threads

Result = TypeVar("Result")


class Pool:
    """Work waits here and not in the threads' own queue, where nothing could be taken out again or overtake.

    Belongs to the event loop's thread.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = Threads(threads, name)
        self._free = threads
        self._waiting: dict[Priority, deque[asyncio.Future[None]]] = {priority: deque() for priority in Priority}
        self._turns = Turns()

    async def run(self, work: Callable[[], Result], priority: Priority) -> tuple[Result, float]:
        """The work's result, and the seconds that it took without those that it waited for a thread.

        Cancelling it while it waits takes it out. Raises what `work` raises. It runs in a copy of the caller's context,
        so that what it logs is known to belong to the caller's request.
        """
        loop = asyncio.get_running_loop()
        await self._turn(priority)
        waiter: asyncio.Future[Outcome[Result]] = loop.create_future()

        def done(outcome: Outcome[Result]) -> None:
            # Not when the caller is cancelled: the thread is free only when the work has ended.
            self._leave()
            if not waiter.done():
                waiter.set_result(outcome)

        self._threads.submit(loop, partial(copy_context().run, work), done)
        outcome = await waiter
        return outcome.result(), outcome.seconds

    def close(self) -> None:
        """Let the threads end. Work that runs is finished first."""
        self._threads.close()

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
