"""A simulated clock for the batcher with its real threads, and devices that are given batches ahead, on that clock.

Time passes only while no thread has anything to do, and then at once: what takes a minute takes a moment, and always
happens in the same order.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from service.scheduling import batcher, device, threads
from service.scheduling.threads import Threads
from tests.patience import PATIENCE


class Clock(asyncio.SelectorEventLoop):
    """An event loop in its own time, in seconds."""

    def __init__(self) -> None:
        self._now = 0.0
        self._unfinished: Counter[threading.Thread] = Counter()
        self._asleep: set[threading.Thread] = set()
        self._lock = threading.Lock()
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    @property
    def someone_works(self) -> bool:
        with self._lock:
            return any(count and thread not in self._asleep for thread, count in self._unfinished.items())

    def work(self, thread: threading.Thread, change: int) -> None:
        """More or less is to be done by a thread."""
        with self._lock:
            self._unfinished[thread] += change
        self._look_again()

    def sleep_until(self, when: float) -> None:
        """For threads."""
        woken, me = threading.Event(), threading.current_thread()

        def wake() -> None:
            with self._lock:
                self._asleep.remove(me)
            woken.set()

        self.call_soon_threadsafe(self.call_at, when, wake)
        with self._lock:
            self._asleep.add(me)
        self._look_again()
        assert woken.wait(PATIENCE)

    def _look_again(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.call_soon_threadsafe(lambda: None)


class _Selector(selectors.DefaultSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        if self._clock.someone_works:  # and wakes us when it has ended
            return super().select(PATIENCE)
        if told := super().select(0):  # by a thread, since the loop found out until when nothing happens
            return told
        assert timeout is not None, "nothing will ever happen again"
        self._clock.advance(timeout)
        return super().select(0)


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Clock], Coroutine[Any, Any, None]]], None]:
    """Runs a scenario on a clock of its own."""

    def run(scenario: Callable[[Clock], Coroutine[Any, Any, None]]) -> None:
        clock = Clock()

        class Counted(Threads):
            def hand_over(self, run: Callable[[], None]) -> None:
                (thread,) = self._threads

                def counted() -> None:
                    run()
                    clock.work(thread, -1)

                clock.work(thread, +1)
                super().hand_over(counted)

        simulated = SimpleNamespace(monotonic=clock.time, perf_counter=clock.time)
        for module in (batcher, device, threads):
            monkeypatch.setattr(module, "time", simulated)
        monkeypatch.setattr(device, "Threads", Counted)
        with contextlib.closing(clock):
            clock.run_until_complete(scenario(clock))

    return run


class Gpu:
    """Devices that compute batches one after the other and are given them ahead. A batch takes `seconds`, to be given
    `feeding`; with an item "slow" it takes ten times as long, with "hangs" it never ends, and with "bad" it fails.

    `given` and `computed` are (device, items), `most` the most batches that a device ever had.
    """

    def __init__(self, clock: Clock, seconds: float = 1.0, feeding: float = 0.0, fits: int = 8) -> None:
        self.given: list[tuple[int, list[str]]] = []
        self.computed: list[tuple[int, list[str]]] = []
        self.most = 0
        self._clock, self._seconds, self._feeding, self._fits = clock, seconds, feeding, fits
        self._free_at: dict[int, float] = {}
        self._on: dict[int, int] = {}

    def __call__(self, items: Sequence[str], device: int) -> Callable[[], Sequence[str]]:
        self.given.append((device, [*items]))
        if self._feeding:
            self._clock.sleep_until(self._clock.time() + self._feeding)
        if "unreadable" in items:
            raise ValueError("an unreadable item")
        seconds = self._seconds * (10 if "slow" in items else 1)
        began = max(self._clock.time(), self._free_at.get(device, 0.0))
        self._free_at[device] = end = began + (1e9 if "hangs" in items else seconds)
        self._on[device] = self._on.get(device, 0) + 1
        self.most = max(self.most, self._on[device])

        def result() -> Sequence[str]:
            self._clock.sleep_until(end)
            self._on[device] -= 1
            self.computed.append((device, [*items]))
            if len(items) > self._fits:
                raise batcher.OutOfMemory(f"{len(items)} do not fit")
            if "bad" in items:
                raise ValueError("a bad item")
            return [item.upper() for item in items]

        return result

    def replace(self, device: int) -> None:
        """As good as new."""
        self._free_at[device], self._on[device] = self._clock.time(), 0
