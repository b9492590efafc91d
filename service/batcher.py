"""Groups single items into batches for one engine thread, without polling.

Callers `await submit(item, group, deadline)` on the event loop. Items of one group may share a batch; a batch leaves as
soon as the engine is idle and either the group is full or its oldest item has waited `max_delay`. Three events wake the
batcher: an item arrives, the engine becomes free, the oldest item's delay runs out.

All state belongs to the event loop's thread, so there are no locks. Only `run` executes elsewhere, on the engine
thread, one call at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

logger = logging.getLogger(__name__)

# uvloop's timers count whole milliseconds, so a timer may fire this much early (seconds).
TIMER_SLACK = 0.001
# Weight of the newest batch in the running mean of seconds an item.
THROUGHPUT_WEIGHT = 0.2


class DeadlinePassedError(Exception):
    """The item's deadline passed while it waited; it was never computed."""


@dataclass(frozen=True, slots=True)
class Computed(Generic[Out]):
    """What became of one item: its value, seconds waited and computed, and how many items shared the batch."""

    value: Out
    queue_seconds: float
    run_seconds: float
    batch_size: int


@dataclass(frozen=True, slots=True, eq=False)
class _Job(Generic[In, Out]):
    item: In
    group: Hashable
    deadline: float
    arrived: float
    future: asyncio.Future[Computed[Out]]


class Batcher(Generic[In, Out]):
    """One queue for each group, in front of one engine thread.

    `run(items)` is called on the engine thread with 1..max_batch_size items of one group and returns a value for each,
    in order. When it raises on several items, each is run again alone, so that a bad one fails alone; what it raises on
    a single item is what that item's `submit` raises. `max_delay` is in seconds. Clocks are `time.monotonic()`.
    """

    def __init__(
        self,
        run: Callable[[Sequence[In]], Sequence[Out]],
        *,
        max_batch_size: int,
        max_delay: float = 0.0,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run = run
        self._max_batch_size = max_batch_size
        self._max_delay = max_delay
        self._on_batch = on_batch
        self._groups: dict[Hashable, deque[_Job[In, Out]]] = {}
        self._alone: deque[_Job[In, Out]] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._engine = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self.seconds_per_item = 0.0
        """Running mean of engine time an item, 0 before the first batch."""

    @property
    def depth(self) -> int:
        """Items that wait, not counting the batch on the engine."""
        return sum(map(len, self._groups.values())) + len(self._alone)

    async def submit(self, item: In, group: Hashable, deadline: float = float("inf")) -> Computed[Out]:
        """Wait for `item`'s value. Cancelling the caller takes the item out of the queue.

        Raises DeadlinePassedError, or what `run` raised on the item alone.
        """
        now = time.monotonic()
        future: asyncio.Future[Computed[Out]] = asyncio.get_running_loop().create_future()
        job: _Job[In, Out] = _Job(item, group, deadline, now, future)
        self._groups.setdefault(group, deque()).append(job)
        self._dispatch()
        try:
            return await job.future
        except asyncio.CancelledError:
            self._forget(job)
            raise

    def hurry(self) -> None:
        """From now on, don't wait for fuller batches: nothing more will come."""
        self._max_delay = 0.0
        self._dispatch()

    def close(self) -> None:
        """Let the engine thread end. A batch that runs is finished first; its answers go nowhere."""
        if self._timer is not None:
            self._timer.cancel()
        self._engine.shutdown(wait=False, cancel_futures=True)

    def _dispatch(self) -> None:
        """Start a batch if the engine is idle and one is due; otherwise see that somebody wakes us in time."""
        if self._busy:
            return  # the running batch's done callback comes back here
        now = time.monotonic()
        batch = self._next_batch(now)
        if batch:
            self._start(batch, now)
        elif self._groups:
            self._wake_at(min(jobs[0].arrived for jobs in self._groups.values()) + self._max_delay, now)

    def _next_batch(self, now: float) -> list[_Job[In, Out]]:
        """The due batch whose oldest item is the oldest of all, without cancelled and expired items; empty if none."""
        while self._alone:
            job = self._alone.popleft()
            if self._is_wanted(job, now):
                return [job]
        while due := [jobs for jobs in self._groups.values() if self._is_due(jobs, now)]:
            jobs = min(due, key=lambda jobs: jobs[0].arrived)
            batch: list[_Job[In, Out]] = []
            while jobs and len(batch) < self._max_batch_size:
                job = jobs.popleft()
                if self._is_wanted(job, now):
                    batch.append(job)
                if not jobs:
                    del self._groups[job.group]
            if batch:
                return batch
        return []

    def _is_due(self, jobs: deque[_Job[In, Out]], now: float) -> bool:
        return len(jobs) >= self._max_batch_size or jobs[0].arrived + self._max_delay <= now + TIMER_SLACK

    def _is_wanted(self, job: _Job[In, Out], now: float) -> bool:
        if job.deadline <= now and not job.future.done():
            job.future.set_exception(DeadlinePassedError())
        return not job.future.done()

    def _forget(self, job: _Job[In, Out]) -> None:
        jobs = self._groups.get(job.group)
        if jobs is not None and job in jobs:
            jobs.remove(job)
            if not jobs:
                del self._groups[job.group]
        self._dispatch()

    def _wake_at(self, when: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, when - now), self._dispatch)

    def _start(self, batch: list[_Job[In, Out]], now: float) -> None:
        self._busy = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        running = asyncio.get_running_loop().run_in_executor(self._engine, self._timed, [job.item for job in batch])
        running.add_done_callback(lambda done: self._finish(batch, now, done))

    def _timed(self, items: list[In]) -> tuple[Sequence[Out], float]:
        start = time.perf_counter()
        values = self._run(items)
        if len(values) != len(items):
            raise RuntimeError(f"the engine answered {len(values)} of {len(items)} images")
        return values, time.perf_counter() - start

    def _finish(
        self, batch: list[_Job[In, Out]], started: float, done: asyncio.Future[tuple[Sequence[Out], float]]
    ) -> None:
        self._busy = False
        if done.cancelled():  # closed before the engine thread took it
            for job in batch:
                job.future.cancel()
            return
        error = done.exception()
        if error is not None and len(batch) > 1:
            logger.warning("a batch of %d failed, running its images one at a time", len(batch), exc_info=error)
            self._alone.extend(batch)
        self._dispatch()  # first the next batch, then the answers: the engine should not wait for them
        if error is not None:
            if len(batch) == 1 and not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        values, seconds = done.result()
        self._measure(len(batch), seconds)
        for job, value in zip(batch, values, strict=True):
            if not job.future.done():
                job.future.set_result(Computed(value, started - job.arrived, seconds, len(batch)))

    def _measure(self, size: int, seconds: float) -> None:
        mean = seconds / size
        before = self.seconds_per_item
        self.seconds_per_item = before + THROUGHPUT_WEIGHT * (mean - before) if before else mean
        self._on_batch(size, seconds)
