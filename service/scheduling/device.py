"""A device of the batcher: the batches that are on it, and the two threads that work for it.

One thread feeds the device; what it has begun without waiting for it, the other collects. So the device has its next
batch before the last one's answers are taken from it. What is computed while it is fed never reaches the other thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from service.scheduling.priority import Priority
from service.scheduling.threads import Outcome, Threads, attempt, tell

Job = TypeVar("Job")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True, eq=False)
class Run(Generic[Job]):
    """A batch that was handed to a device at `began`, in the `turn` of a priority, or of none where it is computed
    again. It could have had `limit` items, and `at_once` such batches may be on the device."""

    batch: list[Job]
    device: Device[Job]
    limit: int
    at_once: int
    began: float
    turn: Priority | None


class Device(Generic[Job]):
    """`runs` are on it, in the order in which they were handed to it. `is_out` says that a run hung, and that it gets
    no other. Clocks are `time.monotonic()`. Belongs to the event loop's thread.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.runs: list[Run[Job]] = []
        self.is_out = False
        self._busy_seconds = 0.0
        self._busy_since = 0.0
        self._last_end = 0.0
        self._start_threads()

    @property
    def is_idle(self) -> bool:
        return not self.runs and not self.is_out

    @property
    def has_room(self) -> bool:
        """For another batch: it is idle, or what is on it leaves room for more."""
        return not self.is_out and all(len(self.runs) < run.at_once for run in self.runs)

    def busy_seconds(self) -> float:
        """Seconds that anything was on it, until now."""
        return self._busy_seconds + (time.monotonic() - self._busy_since if self.runs else 0.0)

    def begin(
        self,
        run: Run[Job],
        begin: Callable[[], Sequence[Out] | Callable[[], Sequence[Out]]],
        done: Callable[[Outcome[Sequence[Out]]], Any],
    ) -> None:
        """Call `begin` on the feeding thread, and on the event loop `done` with the values that it returns. Where it
        returns a function instead, the collecting thread calls that for them."""
        loop, collecting = asyncio.get_running_loop(), self._collecting
        if not self.runs:
            self._busy_since = run.began
        self.runs.append(run)

        def feed() -> None:
            start = time.perf_counter()
            begun = attempt(begin)
            if begun.error is None and not isinstance(begun.value, Sequence):
                collect = cast("Callable[[], Sequence[Out]]", begun.value)
                collecting.hand_over(lambda: tell(loop, done, attempt(collect, start)))
            else:
                tell(loop, done, cast("Outcome[Sequence[Out]]", begun))

        self._feeding.hand_over(feed)

    def end(self, run: Run[Job]) -> float:
        """It is free of the run, which has computed from the returned moment on: a run that came while another was
        computed has waited for that one."""
        now = time.monotonic()
        self.runs.remove(run)
        if not self.runs:
            self._busy_seconds += now - self._busy_since
        computed_from = max(run.began, self._last_end)
        self._last_end = now
        return computed_from

    def give_up(self) -> list[Run[Job]]:
        """Leave the threads to what hangs in them, and be out of service. Returns what was on it."""
        lost, self.runs = self.runs, []
        self._busy_seconds += time.monotonic() - self._busy_since
        self._feeding.forget()
        self._collecting.forget()
        self.close()
        self._start_threads()
        self.is_out = True
        return lost

    def close(self) -> None:
        """Let the threads end. What is on it is finished first."""
        self._feeding.hand_over(self._collecting.close)  # after what is still to be fed
        self._feeding.close()

    def _start_threads(self) -> None:
        self._feeding, self._collecting = (Threads(1, f"{name}-{self.index}") for name in ("engine", "collect"))
