"""Groups single items into batches for the engine threads, one for each device, without polling.

Callers `await submit(item, lane, bucket)` on the event loop. Items of one lane (a model) and bucket may share a batch.
It leaves as soon as a device is idle and either it is full or its oldest item has waited the lane's `max_delay`. Three
events wake the batcher: an item arrives, a device becomes free, the oldest item's delay runs out.

A run that hangs cannot be ended: its thread is abandoned, its items fail, and the device is out of service until
`restore`.

All state belongs to the event loop's thread, so there are no locks. Only `run` executes elsewhere, on the devices'
threads, one call at a time on each.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from model.runtime.engines.engine import OutOfMemory
from service.scheduling.priority import Priority, Turns
from service.scheduling.threads import Outcome, Threads
from service.scheduling.watchdog import Watchdog

In = TypeVar("In")
Out = TypeVar("Out")

logger = logging.getLogger(__name__)

# uvloop's timers count whole milliseconds, so a timer may fire this much early (seconds).
TIMER_SLACK = 0.001
# Weight of the newest batch in the running mean of seconds an item.
THROUGHPUT_WEIGHT = 0.2


class DeadlinePassedError(Exception):
    """The item's deadline passed while it waited; it was never computed."""


class EngineStalledError(Exception):
    """The item's run hangs, or it waited for a device and none is in service."""


@dataclass(slots=True, eq=False)
class Lane:
    """The limits of one version of a model in the batcher, and what its items have cost so far.

    `max_batch_size` is halved when a batch does not fit into a device's memory. `max_delay` is in seconds.
    `seconds_per_item` is a running mean of device time, 0 before the first batch.
    """

    name: str
    max_batch_size: int
    max_delay: float = 0.0
    seconds_per_item: float = 0.0
    version: int = 0

    def measure(self, size: int, seconds: float) -> None:
        mean = seconds / size
        before = self.seconds_per_item
        self.seconds_per_item = before + THROUGHPUT_WEIGHT * (mean - before) if before else mean


@dataclass(frozen=True, slots=True)
class Computed(Generic[Out]):
    """What became of one item: its value, seconds waited and computed, and how many items shared the batch."""

    value: Out
    queue_seconds: float
    run_seconds: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class BatchReport:
    """A batch that has left a device. `limit` is the most items that it could have had."""

    lane: Lane
    device: int
    size: int
    limit: int
    seconds: float
    failed: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Job(Generic[In, Out]):
    item: In
    lane: Lane
    bucket: Hashable
    priority: Priority
    deadline: float
    arrived: float
    future: asyncio.Future[Computed[Out]]
    context: Context = field(default_factory=copy_context)
    """Of whoever submitted it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Run(Generic[In, Out]):
    """A batch on a device. It could have had `limit` items."""

    batch: list[_Job[In, Out]]
    device: int
    limit: int
    began: float


@dataclass(frozen=True, slots=True, eq=False)
class _Group(Generic[In, Out]):
    """The waiting items of one lane and bucket, which may share a batch, in order of arrival."""

    lane: Lane
    waiting: dict[Priority, deque[_Job[In, Out]]] = field(default_factory=lambda: {p: deque() for p in Priority})

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def oldest(self) -> float:
        """When its first item arrived. There must be one."""
        return min(jobs[0].arrived for jobs in self.waiting.values() if jobs)


class Batcher(Generic[In, Out]):
    """One queue for all devices.

    `run(items, device)` is called on that device's thread with items of one lane and bucket, no more than the lane
    allows, and returns a value for each, in order. When it raises on several items, each is run again alone, so that a
    bad one fails alone; what it raises on a single item is what that item's `submit` raises. `OutOfMemory` on several
    items halves the lane's limit, and they run again in smaller batches. Clocks are `time.monotonic()`.

    A run that has not ended after `stall_after` seconds (None: never) hangs: `on_stall(items, device)` is told, and
    must see to it that `restore` is called. `abandoned` counts the threads that are stuck in such runs.
    """

    def __init__(
        self,
        run: Callable[[Sequence[In], int], Sequence[Out]],
        *,
        devices: int = 1,
        on_batch: Callable[[BatchReport], None] = lambda report: None,
        stall_after: float | None = None,
        on_stall: Callable[[Sequence[In], int], None] = lambda items, device: None,
    ) -> None:
        self.abandoned = 0
        self._run = run
        self._on_batch = on_batch
        self._on_stall = on_stall
        self._watchdog: Watchdog[_Run[In, Out]] = Watchdog(stall_after, self._give_up)
        self._groups: dict[tuple[Lane, Hashable], _Group[In, Out]] = {}
        self._alone: deque[_Job[In, Out]] = deque()
        self._turns = Turns()
        self._hurried = False
        self._timer: asyncio.TimerHandle | None = None
        self._threads = [Threads(1, f"engine-{device}") for device in range(devices)]
        self._idle = set(range(devices))
        self._out: set[int] = set()
        self._runs: dict[int, _Run[In, Out]] = {}
        self._busy_seconds = [0.0] * devices

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return len(self._threads)

    @property
    def is_out(self) -> bool:
        """No device is in service."""
        return len(self._out) == len(self._threads)

    def depth(self, lane: Lane | None = None, priority: Priority | None = None) -> int:
        """Items that wait, not counting those on a device; of one lane or priority only, if given."""
        return sum(1 for job in self._jobs() if lane in (None, job.lane) and priority in (None, job.priority))

    def oldest_wait(self) -> float:
        """Seconds that the item which waits longest has waited; 0 if none waits."""
        return max((time.monotonic() - job.arrived for job in self._jobs()), default=0.0)

    def busy_seconds(self, device: int) -> float:
        """Seconds that the device has computed, the batch on it now included."""
        run = self._runs.get(device)
        return self._busy_seconds[device] + (0.0 if run is None else time.monotonic() - run.began)

    async def submit(
        self,
        item: In,
        lane: Lane,
        bucket: Hashable,
        deadline: float = float("inf"),
        priority: Priority = Priority.INTERACTIVE,
    ) -> Computed[Out]:
        """Wait for `item`'s value. Cancelling the caller takes the item out of the queue.

        Raises DeadlinePassedError, EngineStalledError, or what `run` raised on the item alone.
        """
        if self.is_out:
            raise EngineStalledError
        future: asyncio.Future[Computed[Out]] = asyncio.get_running_loop().create_future()
        job = _Job(item, lane, bucket, priority, deadline, time.monotonic(), future)
        self._group_of(job).waiting[priority].append(job)
        self._dispatch()
        try:
            return await job.future
        except asyncio.CancelledError:
            self._forget(job)
            raise

    def hurry(self) -> None:
        """From now on, don't wait for fuller batches: nothing more will come."""
        self._hurried = True
        self._dispatch()

    def restore(self, device: int) -> None:
        """Let a device compute again whose run hung, on a new thread."""
        self._out.discard(device)
        self._idle.add(device)
        self._dispatch()

    def close(self) -> None:
        """Let the devices' threads end. A batch that runs is finished first; its answers go nowhere."""
        self._watchdog.close()
        if self._timer is not None:
            self._timer.cancel()
        for thread in self._threads:
            thread.close()

    def _jobs(self) -> Iterator[_Job[In, Out]]:
        yield from self._alone
        for group in self._groups.values():
            for jobs in group.waiting.values():
                yield from jobs

    def _dispatch(self) -> None:
        """Start the batches that are due while devices are idle; then see that somebody wakes us in time."""
        now = time.monotonic()
        while self._idle:  # otherwise a running batch's done callback comes back here
            batch = self._next_batch(now)
            if not batch:
                break
            self._start(batch, now)
        if self._idle and self._groups:
            self._wake_at(min(group.oldest() + group.lane.max_delay for group in self._groups.values()), now)

    def _next_batch(self, now: float) -> list[_Job[In, Out]]:
        """The batch whose turn it is, without cancelled and expired items; empty if none is due."""
        while self._alone:
            job = self._alone.popleft()
            if self._is_wanted(job, now):
                return [job]
        while due := [group for group in self._groups.values() if self._is_due(group, now)]:
            waiting = {priority for group in due for priority, jobs in group.waiting.items() if jobs}
            priority = self._turns.choose(waiting)
            group = min((g for g in due if g.waiting[priority]), key=lambda g: g.waiting[priority][0].arrived)
            if batch := self._take(group, priority, now):
                return batch
        return []

    def _take(self, group: _Group[In, Out], first: Priority, now: float) -> list[_Job[In, Out]]:
        """Up to a full batch of the group, of one priority first; the other fills what is left."""
        batch: list[_Job[In, Out]] = []
        for jobs in sorted(group.waiting.values(), key=lambda jobs: jobs is not group.waiting[first]):
            while jobs and len(batch) < group.lane.max_batch_size:
                job = jobs.popleft()
                if self._is_wanted(job, now):
                    batch.append(job)
        self._drop_empty()
        return batch

    def _is_due(self, group: _Group[In, Out], now: float) -> bool:
        if self._hurried or len(group) >= group.lane.max_batch_size:
            return True
        return group.oldest() + group.lane.max_delay <= now + TIMER_SLACK

    def _is_wanted(self, job: _Job[In, Out], now: float) -> bool:
        if job.deadline <= now and not job.future.done():
            job.future.set_exception(DeadlinePassedError())
        return not job.future.done()

    def _forget(self, job: _Job[In, Out]) -> None:
        jobs = self._group_of(job).waiting[job.priority]
        if job in jobs:
            jobs.remove(job)
        self._drop_empty()
        self._dispatch()

    def _group_of(self, job: _Job[In, Out]) -> _Group[In, Out]:
        return self._groups.setdefault((job.lane, job.bucket), _Group(job.lane))

    def _drop_empty(self) -> None:
        self._groups = {key: group for key, group in self._groups.items() if len(group)}

    def _wake_at(self, when: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, when - now), self._dispatch, context=Context())

    def _start(self, batch: list[_Job[In, Out]], now: float) -> None:
        device = min(self._idle)
        self._idle.remove(device)
        run = self._runs[device] = _Run(batch, device, batch[0].lane.max_batch_size, now)
        self._watchdog.begin(run)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        items = [job.item for job in batch]
        # The end is not in the context of the request that happened to start the batch: it is not about it alone.
        self._threads[device].submit(
            asyncio.get_running_loop(),
            lambda: self._values(items, device),
            lambda outcome: self._finish(run, outcome),
        )

    def _values(self, items: list[In], device: int) -> Sequence[Out]:
        values = self._run(items, device)
        if len(values) != len(items):
            raise RuntimeError(f"the engine answered {len(values)} of {len(items)} images")
        return values

    def _finish(self, run: _Run[In, Out], outcome: Outcome[Sequence[Out]]) -> None:
        batch, device = run.batch, run.device
        if self._runs.get(device) is not run:
            self.abandoned -= 1
            logger.warning("a run that hung has ended after %.1f s; its thread ends", outcome.seconds)
            return
        self._idle.add(device)
        seconds = self._end(run)
        lane, error = batch[0].lane, outcome.error
        if error is None:
            seconds = outcome.seconds
            lane.measure(len(batch), seconds)
        elif len(batch) > 1:
            self._run_again(batch, error)
        self._dispatch()  # first the next batch, then the answers: the device should not wait for them
        self._on_batch(BatchReport(lane, device, len(batch), run.limit, seconds, error is not None))
        if error is not None:
            if len(batch) == 1 and not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        for job, value in zip(batch, outcome.result(), strict=True):
            if not job.future.done():
                job.future.set_result(Computed(value, run.began - job.arrived, seconds, len(batch)))

    def _end(self, run: _Run[In, Out]) -> float:
        """The device is free of it. Returns the run's seconds."""
        self._watchdog.end(run)
        del self._runs[run.device]
        seconds = time.monotonic() - run.began
        self._busy_seconds[run.device] += seconds
        return seconds

    def _give_up(self, run: _Run[In, Out]) -> None:
        """A run hangs. Its items fail, and if no device is left, all that wait."""
        device, lane = run.device, run.batch[0].lane
        seconds = self._end(run)
        self._threads[device].abandon()
        self._threads[device] = Threads(1, f"engine-{device}")
        self._out.add(device)
        self.abandoned += 1
        lost = [*run.batch]
        if self.is_out:
            lost += self._jobs()
            self._alone.clear()
            self._groups.clear()
        for job in lost:
            if not job.future.done():
                job.future.set_exception(EngineStalledError())
        self._on_batch(BatchReport(lane, device, len(run.batch), run.limit, seconds, failed=True))
        self._on_stall([job.item for job in run.batch], device)

    def _run_again(self, batch: list[_Job[In, Out]], error: BaseException) -> None:
        """In smaller batches if memory was short, else one at a time."""
        lane = batch[0].lane
        common = _common_context(batch)
        if not isinstance(error, OutOfMemory):
            message = "a batch of %d failed, running its images one at a time"
            common.run(logger.warning, message, len(batch), exc_info=error)
            self._alone.extend(batch)
            return
        lane.max_batch_size = min(lane.max_batch_size, max(1, len(batch) // 2))
        common.run(logger.warning, "%s; the batch limit of %s is now %d", error, lane.name, lane.max_batch_size)
        for job in reversed(batch):
            self._group_of(job).waiting[job.priority].appendleft(job)


def _common_context(batch: list[_Job[In, Out]]) -> Context:
    """What holds for all who are in the batch: a line about one request's images is about that request."""
    common = Context()
    for variable, value in batch[0].context.items():
        if all(job.context.get(variable) is value for job in batch):
            common.run(variable.set, value)
    return common
