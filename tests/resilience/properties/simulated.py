"""An event loop on a simulated clock: hours pass in milliseconds, and always in the same order."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Of = TypeVar("Of")

often: Final = settings(max_examples=6 * settings.default.max_examples)
"""Schedules are quickly played, and most are harmless."""


def few_or_many(of: SearchStrategy[Of]) -> SearchStrategy[list[Of]]:
    """Lists of up to 40, half of them of 20 or more: it takes many to be in each other's way."""
    return st.one_of(st.lists(of, min_size=1, max_size=40), st.lists(of, min_size=20, max_size=40))


class Stranded(AssertionError):
    """Somebody waits, and nothing will ever happen."""


class Clock(asyncio.SelectorEventLoop):
    """Waits for nothing: where nothing is left to do, it is the next timer's time.

    `on_pause` is called before time goes on. `early`: seconds by which timers fire before their time, as uvloop's do.
    """

    def __init__(self, on_pause: Callable[[], None] = lambda: None, early: float = 0.0) -> None:
        self.now = 1000.0
        self.on_pause = on_pause
        self._early = early
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when - self._early, callback, *args, context=context)

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        with contextlib.closing(self), asyncio.Runner(loop_factory=lambda: self) as runner:
            runner.run(scenario)


class _Selector(selectors.SelectSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise Stranded
        if timeout > 0:
            self._clock.on_pause()
            self._clock.now += timeout
        return super().select(0)
