"""Decides whether a request may come in, and how long it may stay.

Nothing comes in while the server starts or drains, or when too many requests wait already. What is in has a deadline.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from enum import Enum

from service.problems import DEADLINE_PASSED, DRAINING, QUEUE_FULL, STARTING, Problem

RETRY_STARTING = 1
RETRY_DRAINING = 5
MAX_RETRY = 60
"""Seconds in `Retry-After`."""

# When a stay ends that draining cut off, on the loop's clock: long ago.
_CUT_OFF = 0.0

logger = logging.getLogger(__name__)


class Phase(Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


def still_starting() -> Problem:
    return Problem(STARTING, "The model is being loaded; GET /readyz tells when it is ready.", RETRY_STARTING)


def deadline_passed() -> Problem:
    return Problem(DEADLINE_PASSED, "The answer was not ready before the request's deadline; the request was dropped.")


def _draining() -> Problem:
    return Problem(DRAINING, "This server takes no new requests; send it to another.", RETRY_DRAINING)


class Gate:
    """Counts the requests between upload and answer. Belongs to the event loop's thread.

    `seconds_per_request` is the current estimate of the time that one more accepted request costs.
    """

    def __init__(self, max_queue_size: int, seconds_per_request: Callable[[], float] = lambda: 0.0) -> None:
        self.phase = Phase.STARTING
        self.seconds_per_request = seconds_per_request
        self._max_queue_size = max_queue_size
        self._uploads: set[asyncio.Timeout] = set()
        self._accepted: set[asyncio.Timeout] = set()
        self._patience: asyncio.Timeout | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def in_flight(self) -> int:
        """Requests accepted and not yet answered."""
        return len(self._accepted)

    @property
    def is_draining(self) -> bool:
        return self.phase is Phase.DRAINING

    def check_phase(self) -> None:
        """Raise a Problem unless ready."""
        if self.phase is Phase.STARTING:
            raise still_starting()
        if self.is_draining:
            raise _draining()

    def check(self) -> None:
        """Raise a Problem if no request may come in now. Costs nothing: call it before reading the body."""
        self.check_phase()
        if self.in_flight >= self._max_queue_size:
            wait = math.ceil(self.in_flight * self.seconds_per_request())
            raise Problem(
                QUEUE_FULL,
                f"{self.in_flight} requests wait for their answers and no more are accepted; try again later.",
                min(max(wait, 1), MAX_RETRY),
            )

    @asynccontextmanager
    async def upload(self) -> AsyncIterator[None]:
        """Around the reading of a body: what is not complete when draining starts is refused, with a Problem."""
        async with self._stay(self._uploads, None):
            yield

    @asynccontextmanager
    async def admit(self, timeout: float) -> AsyncIterator[float]:
        """Hold one place from acceptance to answer, at most `timeout` seconds; yields the deadline (time.monotonic()).

        Raises a Problem as `check` does, when the deadline has passed, or when draining takes too long.
        """
        self.check()
        self._empty.clear()
        try:
            async with self._stay(self._accepted, timeout):
                yield time.monotonic() + timeout
        finally:
            if not self._accepted:
                self._empty.set()

    async def drain(self, timeout: float) -> bool:
        """Refuse everything new and return when nothing is in flight; False if `timeout` seconds were not enough.

        What is then still in flight is answered with 503.
        """
        self.phase = Phase.DRAINING
        _cut_off(self._uploads)
        try:
            async with asyncio.timeout(timeout) as self._patience:
                await self._empty.wait()
            return True
        except TimeoutError:
            logger.warning("%d requests were not answered in time and are dropped", self.in_flight)
            _cut_off(self._accepted)
            await self._empty.wait()
            return False
        finally:
            self._patience = None

    def give_up(self) -> None:
        """Let `drain` wait no longer."""
        if self._patience is not None:
            _cut_off([self._patience])

    @asynccontextmanager
    async def _stay(self, stays: set[asyncio.Timeout], timeout: float | None) -> AsyncIterator[None]:
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                stays.add(limit)
                yield
        except TimeoutError:
            if not limit.expired():  # somebody else's
                raise
            raise (_draining() if limit.when() == _CUT_OFF else deadline_passed()) from None
        finally:
            stays.discard(limit)


def _cut_off(limits: Iterable[asyncio.Timeout]) -> None:
    for limit in limits:
        if not limit.expired():
            limit.reschedule(_CUT_OFF)
