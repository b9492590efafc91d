"""What waits in the batcher: items, each with whom it is for, and those that may share a batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.scheduling.priority import Priority

In = TypeVar("In")
Out = TypeVar("Out")

# Weight of the newest batch in the running mean of seconds an item.
THROUGHPUT_WEIGHT = 0.2


@dataclass(slots=True, eq=False)
class Lane:
    """The limits of one version of a model in the batcher, and what its items have cost so far.

    `max_batch_size` is halved when a batch does not fit into a device's memory. `max_delay` is in seconds.
    `seconds_per_item` is a running mean of device time, 0 before the first batch. So many of its batches may be on a
    device `at_once`: the one that computes, and those that it gets meanwhile.
    """

    name: str
    max_batch_size: int
    max_delay: float = 0.0
    seconds_per_item: float = 0.0
    version: int = 0
    at_once: int = 1

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


@dataclass(frozen=True, slots=True, eq=False)
class Job(Generic[In, Out]):
    """An item that was submitted."""

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
class Group(Generic[In, Out]):
    """The waiting items of one lane and bucket, which may share a batch, in order of arrival."""

    lane: Lane
    waiting: dict[Priority, deque[Job[In, Out]]] = field(default_factory=lambda: {p: deque() for p in Priority})

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    @property
    def is_full(self) -> bool:
        """No other item could join its next batch."""
        return len(self) >= self.lane.max_batch_size

    def oldest(self) -> float:
        """When its first item arrived. There must be one."""
        return min(jobs[0].arrived for jobs in self.waiting.values() if jobs)
