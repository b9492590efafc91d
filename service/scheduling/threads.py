"""Threads that work for an event loop: one queue written in C leads to them, one call back to the loop.

`ThreadPoolExecutor` takes several locks for each piece of work, the last of them one that its threads hold while they
wait for the interpreter, so that the event loop waits with them; and its results need a second call.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Outcome(Generic[Result]):
    """What became of a piece of work: a value or an error, after so many seconds."""

    value: Result | None
    error: BaseException | None
    seconds: float

    def result(self) -> Result:
        """The value, or the error is raised: to be called once.

        The error is kept no longer. It knows the frames that it came through, with the image that the work had, and
        they know who is told of this outcome: together they would stay until a garbage collection.
        """
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error
        return cast("Result", self.value)


class Threads:
    """A fixed number of threads. What is handed over first is begun first."""

    def __init__(self, count: int, name: str) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # Daemons, for the interpreter would wait for other threads before it comes to tell these to end.
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}_{index}", daemon=True) for index in range(count)
        ]
        for thread in self._threads:
            thread.start()
        _alive.add(self)

    def submit(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Callable[[], Result],
        done: Callable[[Outcome[Result]], Any],
    ) -> None:
        """Do `work` on a thread, then call `done` on the loop's, unless the loop has ended by then."""
        self.hand_over(lambda: tell(loop, done, attempt(work)))

    def hand_over(self, run: Callable[[], None]) -> None:
        """Do `run`, which raises nothing, on a thread. Nobody is told when it has ended."""
        self._queue.put(run)

    def close(self) -> None:
        """Let the threads end as soon as they have done what was handed over. Doesn't wait for it."""
        for _ in self._threads:
            self._queue.put(None)

    def forget(self) -> None:
        """Don't wait for them at the exit: one of them may never come back."""
        _alive.discard(self)

    def join(self) -> None:
        """Wait until they have ended."""
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (run := self._queue.get()) is not None:
            run()
            del run  # or an image would be kept until the next one comes


_alive: weakref.WeakSet[Threads] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    """A thread that computes while the interpreter is taken down would crash it."""
    for threads in list(_alive):
        threads.close()
        threads.join()


def attempt(work: Callable[[], Result], start: float | None = None) -> Outcome[Result]:
    """What becomes of `work`, whose seconds count from `start` (`time.perf_counter()`), or from now."""
    start = time.perf_counter() if start is None else start
    try:
        value = work()
    except BaseException as error:  # whatever it is, it is for whoever waits
        return Outcome(None, error, time.perf_counter() - start)
    return Outcome(value, None, time.perf_counter() - start)


def tell(loop: asyncio.AbstractEventLoop, done: Callable[[Outcome[Result]], Any], outcome: Outcome[Result]) -> None:
    """Call `done` on the loop's thread."""
    with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
        loop.call_soon_threadsafe(done, outcome)
