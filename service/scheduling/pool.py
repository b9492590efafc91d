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
    """Work waits here and not in the threads' own queues, where nothing could be taken out again or overtake. Of idle
    threads the one that worked last is taken, whose memory is still in a processor's cache.

    Belongs to the event loop's thread.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = [Threads(1, f"{name}-{index}") for index in range(threads)]
        self._idle = [*self._threads]
        self._waiting: dict[Priority, deque[asyncio.Future[Threads]]] = {priority: deque() for priority in Priority}
        self._turns = Turns()

    async def run(self, work: Callable[[], Result], priority: Priority) -> tuple[Result, float]:
        """The work's result, and the seconds that it took without those that it waited for a thread.

        Cancelling it while it waits takes it out. Raises what `work` raises. It runs in a copy of the caller's context,
        so that what it logs is known to belong to the caller's request.
        """
        loop = asyncio.get_running_loop()
        thread = self._idle.pop() if self._idle else await self._turn(priority)
        waiter: asyncio.Future[Outcome[Result]] = loop.create_future()

        def done(outcome: Outcome[Result]) -> None:
            # Not when the caller is cancelled: the thread is free only when the work has ended.
            self._leave(thread)
            if not waiter.done():
                waiter.set_result(outcome)

        thread.submit(loop, partial(copy_context().run, work), done)
        outcome = await waiter
        return outcome.result(), outcome.seconds

    def close(self) -> None:
        """Let the threads end. Work that runs is finished first."""
        for thread in self._threads:
            thread.close()

    async def _turn(self, priority: Priority) -> Threads:
        turn: asyncio.Future[Threads] = asyncio.get_running_loop().create_future()
        self._waiting[priority].append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave(turn.result())  # cancelled with its turn in its hand: pass it on
            elif turn in self._waiting[priority]:
                self._waiting[priority].remove(turn)
            raise

    def _leave(self, thread: Threads) -> None:
        for turns in self._waiting.values():
            while turns and turns[0].cancelled():  # a moment ago: its owner has not come to take it out
                turns.popleft()
        if waiting := {priority for priority, turns in self._waiting.items() if turns}:
            self._waiting[self._turns.choose(waiting)].popleft().set_result(thread)
        else:
            self._idle.append(thread)
