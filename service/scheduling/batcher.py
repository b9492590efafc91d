"""Groups single items into batches for the devices, without polling.

Callers `await submit(item, lane, bucket)` on the event loop. Items of one lane (a model) and bucket may share a batch.
It leaves as soon as a device is idle and either it is full or its oldest item has waited the lane's `max_delay`. Three
events wake the batcher: an item arrives, a device becomes free, the oldest item's delay runs out.

A device whose engine can be given a batch while it computes another gets the next one before it is idle, but only a
full one: what is not full yet may become so in the meantime.

A run that hangs cannot be ended: its threads are abandoned, its items fail, and the device is out of service until
`restore`. What the device was given besides goes back to what waits. A device that a run has lost is out of service for
good, and what it has goes the same ways.

All state belongs to the event loop's thread, so there are no locks. Only `run` executes elsewhere, on the devices'
threads, one call at a time on each.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from model.runtime.engines.engine import DeviceLost, OutOfMemory
from service.scheduling.device import Device, Run
from service.scheduling.priority import Priority, Turns
from service.scheduling.threads import Outcome
from service.scheduling.waiting import Computed, Group, Job, Lane
from service.scheduling.watchdog import Watchdog

In = TypeVar("In")
Out = TypeVar("Out")

logger = logging.getLogger(__name__)

# uvloop's timers count whole milliseconds, so a timer may fire this much early (seconds).
TIMER_SLACK = 0.001


class DeadlinePassedError(Exception):
    """The item's deadline passed while it waited; it was never computed."""


class EngineStalledError(Exception):
    """The item's run hangs, or it waited for a device and none is in service."""


class EngineLostError(Exception):
    """The item's run has lost its device, or it waited for a device and none is left."""


Begun: TypeAlias = Sequence[Out] | Callable[[], Sequence[Out]]
"""The values of a run, or a function that waits for them."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """A batch that has left a device. `limit` is the most items that it could have had."""

    lane: Lane
    device: int
    size: int
    limit: int
    seconds: float
    failed: bool


class Batcher(Generic[In, Out]):
    """One queue for all devices.

    `run(items, device)` is called on that device's thread with items of one lane and bucket, no more than the lane
    allows, and returns a value for each, in order, or a function that waits for them, which another thread of the
    device calls. When either raises on several items, each is run again alone, so that a bad one fails alone; what is
    raised on a single item is what that item's `submit` raises. `OutOfMemory` on several items halves the lane's limit,
    and they run again in smaller batches. Clocks are `time.monotonic()`.

    A run that has not ended `stall_after` seconds (None: never) after it began, and after the one before it ended,
    hangs: `on_stall(items, device)` is told, and must see to it that `restore` is called. A run that raises DeviceLost
    takes its device out for good, which `on_loss(items, device, error)` is told.
    """

    def __init__(
        self,
        run: Callable[[Sequence[In], int], Begun[Out]],
        *,
        devices: int = 1,
        on_batch: Callable[[BatchReport], None] = lambda report: None,
        stall_after: float | None = None,
        on_stall: Callable[[Sequence[In], int], None] = lambda items, device: None,
        on_loss: Callable[[Sequence[In], int, DeviceLost], None] = lambda items, device, error: None,
    ) -> None:
        self._run = run
        self._on_batch = on_batch
        self._on_stall = on_stall
        self._on_loss = on_loss
        self._is_lost = False
        self._watchdog: Watchdog[Run[Job[In, Out]]] = Watchdog(stall_after, self._give_up)
        self._groups: dict[tuple[Lane, Hashable], Group[In, Out]] = {}
        self._alone: deque[Job[In, Out]] = deque()
        self._turns = Turns()
        self._hurried = False
        self._timer: asyncio.TimerHandle | None = None
        self._devices: list[Device[Job[In, Out]]] = [Device(index) for index in range(devices)]
        self._hung: set[Run[Job[In, Out]]] = set()

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return len(self._devices)

    @property
    def is_out(self) -> bool:
        """No device is in service."""
        return all(device.is_out for device in self._devices)

    @property
    def abandoned(self) -> int:
        """Threads that are stuck in runs that hang."""
        return len(self._hung)

    def depth(self, lane: Lane | None = None, priority: Priority | None = None) -> int:
        """Items that wait, not counting those on a device; of one lane or priority only, if given."""
        return sum(1 for job in self._jobs() if lane in (None, job.lane) and priority in (None, job.priority))

    def oldest_wait(self) -> float:
        """Seconds that the item which waits longest has waited; 0 if none waits."""
        return max((time.monotonic() - job.arrived for job in self._jobs()), default=0.0)

    def busy_seconds(self, device: int) -> float:
        """Seconds that the device has computed, what is on it now included."""
        return self._devices[device].busy_seconds()

    async def submit(
        self,
        item: In,
        lane: Lane,
        bucket: Hashable,
        deadline: float = float("inf"),
        priority: Priority = Priority.INTERACTIVE,
    ) -> Computed[Out]:
        """Wait for `item`'s value. Cancelling the caller takes the item out of the queue.

        Raises DeadlinePassedError, EngineStalledError, EngineLostError, or what `run` raised on the item alone.
        """
        if self.is_out:
            raise EngineLostError if self._is_lost else EngineStalledError
        future: asyncio.Future[Computed[Out]] = asyncio.get_running_loop().create_future()
        job = Job(item, lane, bucket, priority, deadline, time.monotonic(), future)
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
        """Let a device compute again whose run hung, on new threads."""
        self._devices[device].is_out = False
        self._dispatch()

    def close(self) -> None:
        """Let the devices' threads end. A batch that runs is finished first; its answers go nowhere."""
        self._watchdog.close()
        if self._timer is not None:
            self._timer.cancel()
        for device in self._devices:
            device.close()

    def _jobs(self) -> Iterator[Job[In, Out]]:
        yield from self._alone
        for group in self._groups.values():
            for jobs in group.waiting.values():
                yield from jobs

    def _dispatch(self) -> None:
        """Start the batches that are due while devices have room; then see that somebody wakes us in time."""
        now = time.monotonic()
        while (device := self._roomiest()) is not None:  # otherwise a running batch's done callback comes back here
            batch, turn = self._next_batch(now, full=not device.is_idle)
            if not batch:
                break
            self._start(device, batch, now, turn)
        if self._groups and any(device.is_idle for device in self._devices):
            self._wake_at(min(group.oldest() + group.lane.max_delay for group in self._groups.values()), now)

    def _roomiest(self) -> Device[Job[In, Out]] | None:
        """The first of those with the least on them that have room for another batch."""
        able = (device for device in self._devices if device.has_room)
        return min(able, key=lambda device: len(device.runs), default=None)

    def _next_batch(self, now: float, full: bool) -> tuple[list[Job[In, Out]], Priority | None]:
        """The batch whose turn it is, without cancelled and expired items, and which priority's that turn is; empty if
        none is due, or with `full` if others could join it.
        """
        while self._alone:
            job = self._alone.popleft()
            if self._is_wanted(job, now):
                return [job], None
        while due := [group for group in self._groups.values() if self._is_due(group, now)]:
            waiting = {priority for group in due for priority, jobs in group.waiting.items() if jobs}
            priority = self._turns.following(waiting)
            group = min((g for g in due if g.waiting[priority]), key=lambda g: g.waiting[priority][0].arrived)
            # It may wait for more to come, but no full one takes its turn: a backlog of those would pass it for ever.
            if full and not group.is_full and not self._hurried:
                break
            self._turns.choose(waiting)
            if batch := self._take(group, priority, now):
                return batch, priority
        return [], None

    def _take(self, group: Group[In, Out], first: Priority, now: float) -> list[Job[In, Out]]:
        """Up to a full batch of the group, of one priority first; the other fills what is left."""
        batch: list[Job[In, Out]] = []
        for jobs in sorted(group.waiting.values(), key=lambda jobs: jobs is not group.waiting[first]):
            while jobs and len(batch) < group.lane.max_batch_size:
                job = jobs.popleft()
                if self._is_wanted(job, now):
                    batch.append(job)
        self._drop_empty()
        return batch

    def _is_due(self, group: Group[In, Out], now: float) -> bool:
        return self._hurried or group.is_full or group.oldest() + group.lane.max_delay <= now + TIMER_SLACK

    def _is_wanted(self, job: Job[In, Out], now: float) -> bool:
        if job.deadline <= now and not job.future.done():
            job.future.set_exception(DeadlinePassedError())
        return not job.future.done()

    def _forget(self, job: Job[In, Out]) -> None:
        jobs = self._group_of(job).waiting[job.priority]
        if job in jobs:
            jobs.remove(job)
        self._drop_empty()
        self._dispatch()

    def _group_of(self, job: Job[In, Out]) -> Group[In, Out]:
        key = job.lane, job.bucket
        if key not in self._groups:
            self._groups[key] = Group(job.lane)
        return self._groups[key]

    def _drop_empty(self) -> None:
        self._groups = {key: group for key, group in self._groups.items() if len(group)}

    def _wake_at(self, when: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, when - now), self._dispatch, context=Context())

    def _start(
        self, device: Device[Job[In, Out]], batch: list[Job[In, Out]], now: float, turn: Priority | None
    ) -> None:
        lane = batch[0].lane
        run = Run(batch, device, lane.max_batch_size, lane.at_once, now, turn)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        items = [job.item for job in batch]
        # The end is not in the context of the request that happened to start the batch: it is not about it alone.
        device.begin(run, lambda: self._begin(items, device.index), lambda outcome: self._finish(run, outcome))
        if device.runs[0] is run:
            self._watchdog.begin(run)

    def _begin(self, items: list[In], device: int) -> Begun[Out]:
        begun = self._run(items, device)
        if isinstance(begun, Sequence):
            return _of_all(items, begun)
        return lambda: _of_all(items, begun())

    def _finish(self, run: Run[Job[In, Out]], outcome: Outcome[Sequence[Out]]) -> None:
        batch, device = run.batch, run.device
        if run not in device.runs:
            if run in self._hung:
                self._hung.remove(run)
                logger.warning("a run that hung has ended after %.1f s; its thread ends", outcome.seconds)
            return
        if isinstance(outcome.error, DeviceLost):
            self._is_lost = True
            self._take_out(run, EngineLostError)
            self._on_loss([job.item for job in batch], device.index, outcome.error)
            self._dispatch()
            return
        computed_from, seconds = self._end(run)
        lane, error = batch[0].lane, outcome.error
        if run.turn is not None:
            self._turns.took(run.turn, seconds)
        if error is None:
            seconds = min(seconds, outcome.seconds)
            lane.measure(len(batch), seconds)
        elif len(batch) > 1:
            self._run_again(batch, error)
        self._dispatch()  # first the next batch, then the answers: the device should not wait for them
        self._on_batch(BatchReport(lane, device.index, len(batch), run.limit, seconds, error is not None))
        if error is not None:
            if len(batch) == 1 and not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        for job, value in zip(batch, outcome.result(), strict=True):
            if not job.future.done():
                job.future.set_result(Computed(value, computed_from - job.arrived, seconds, len(batch)))

    def _end(self, run: Run[Job[In, Out]]) -> tuple[float, float]:
        """The device is free of it. When the run began to be computed, and the seconds since."""
        device = run.device
        was_first = device.runs[0] is run
        computed_from = device.end(run)
        self._watchdog.end(run)
        if was_first and device.runs:
            self._watchdog.begin(device.runs[0])
        return computed_from, time.monotonic() - computed_from

    def _give_up(self, run: Run[Job[In, Out]]) -> None:
        """A run hangs."""
        self._hung.add(run)
        self._take_out(run, EngineStalledError)
        self._on_stall([job.item for job in run.batch], run.device.index)
        self._dispatch()

    def _take_out(self, run: Run[Job[In, Out]], why: type[Exception]) -> None:
        """Take the run's device out of service. The run's items fail, and if no device is left, all that wait."""
        device, lane = run.device, run.batch[0].lane
        seconds = time.monotonic() - run.began
        for other in reversed(device.give_up()):
            self._watchdog.end(other)
            if other is not run:
                self._put_back(other.batch)
        lost = [*run.batch]
        if self.is_out:
            lost += self._jobs()
            self._alone.clear()
            self._groups.clear()
        for job in lost:
            if not job.future.done():
                job.future.set_exception(why())
        self._on_batch(BatchReport(lane, device.index, len(run.batch), run.limit, seconds, failed=True))

    def _run_again(self, batch: list[Job[In, Out]], error: BaseException) -> None:
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
        self._put_back(batch)

    def _put_back(self, batch: list[Job[In, Out]]) -> None:
        """Before all that wait, in order."""
        for job in reversed(batch):
            self._group_of(job).waiting[job.priority].appendleft(job)


def _of_all(items: Sequence[In], values: Sequence[Out]) -> Sequence[Out]:
    if len(values) != len(items):
        raise RuntimeError(f"the engine answered {len(values)} of {len(items)} images")
    return values


def _common_context(batch: list[Job[In, Out]]) -> Context:
    """What holds for all who are in the batch: a line about one request's images is about that request."""
    common = Context()
    for variable, value in batch[0].context.items():
        if all(job.context.get(variable) is value for job in batch):
            common.run(variable.set, value)
    return common
