"""Tells which work has not ended in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Final, Generic, TypeVar

Work = TypeVar("Work")

LOOKS: Final = 10
"""In how many looks work is found to hang."""


class Watchdog(Generic[Work]):
    """`on_hang(work)` is told once of work that began and has not ended after `limit` seconds (None: never).

    It looks at all work every tenth of that time and counts the looks, for a process that was stopped for a while
    (SIGSTOP, a laptop's lid) has looked once meanwhile: time in which nothing could be computed is nobody's fault.
    Belongs to the event loop's thread.
    """

    def __init__(self, limit: float | None, on_hang: Callable[[Work], None]) -> None:
        self._limit = limit
        self._on_hang = on_hang
        self._looks: dict[Work, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, work: Work) -> None:
        if self._limit is not None:
            self._looks[work] = 0
            self._look_later(self._limit)

    def end(self, work: Work) -> None:
        self._looks.pop(work, None)

    def close(self) -> None:
        """Look no more."""
        self._limit = None
        if self._timer is not None:
            self._timer.cancel()

    def _look_later(self, limit: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(limit / LOOKS, self._look, context=Context())

    def _look(self) -> None:
        self._timer = None
        for work in [*self._looks]:
            self._looks[work] += 1
            if self._looks[work] > LOOKS:  # the first look may come right after its beginning
                del self._looks[work]
                self._on_hang(work)
        if self._looks and self._limit is not None:
            self._look_later(self._limit)
