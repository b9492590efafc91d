"""Decides whether a request may come in, and how long it may stay.

Nothing comes in while the server starts or drains, or when too many requests wait already. What is in has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from service.http.problems import (
    DEADLINE_PASSED,
    DRAINING,
    ENGINE_LOST,
    ENGINE_STALLED,
    NO_TIME,
    QUEUE_FULL,
    SLOW_UPLOAD,
    STARTING,
    TOO_MANY_UPLOADS,
    Problem,
)
from service.scheduling.priority import SHARES, Priority

RETRY_STARTING = 1
RETRY_DRAINING = 5
RETRY_STALLED = 5
MAX_RETRY = 60
"""Seconds in `Retry-After`."""

HEADROOM = 0.8
"""The share of a request's time that the work ahead of it may take by estimate, which is a mean and not a bound."""

# When a stay ends that draining cut off, on the loop's clock: long ago.
_CUT_OFF = 0.0

logger = logging.getLogger(__name__)


class Phase(Enum):
    STARTING = "starting"
    READY = "ready"
    RECOVERING = "recovering"
    """No device computes: an engine that hangs is being replaced."""
    LEAVING = "leaving"
    """About to drain: everything is still answered, but whoever asks whether it is ready hears no."""
    DRAINING = "draining"
    LOST = "lost"
    """A device has failed that this process cannot use again: it drains, and ends."""


def still_starting() -> Problem:
    return Problem(STARTING, "The model is being loaded; GET /readyz tells when it is ready.", RETRY_STARTING)


def engine_stalled() -> Problem:
    return Problem(
        ENGINE_STALLED,
        "A run of the network did not end, so its engine is being replaced; GET /readyz tells when it is ready. If it "
        "was this image's run, the same image may do it again.",
        RETRY_STALLED,
    )


def engine_lost() -> Problem:
    return Problem(
        ENGINE_LOST,
        "A device has failed that this process cannot use again, so it ends, to be started again. If it was by this "
        "image's run, the same image may do it again.",
        RETRY_STALLED,
    )


def deadline_passed() -> Problem:
    return Problem(DEADLINE_PASSED, "The answer was not ready before the request's deadline; the request was dropped.")


def slow_upload(timeout: float) -> Problem:
    return Problem(SLOW_UPLOAD, f"The body was not complete after {timeout:g} s; send it faster, or smaller.")


def _draining() -> Problem:
    return Problem(DRAINING, "This server takes no new requests; send it to another.", RETRY_DRAINING)


@dataclass(frozen=True, slots=True)
class Place:
    """What a request asks for: a place in the queue of one model and priority, which has `limit` of them."""

    model: str
    priority: Priority
    limit: int


class Deadline:
    """When an accepted request must be answered: `at` is on `time.monotonic()`'s clock."""

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self._limit = limit
        self.at = time.monotonic() + seconds

    def extend(self, seconds: float) -> None:
        """It has so much longer, unless it is cut off already."""
        self.at += seconds
        when = self._limit.when()
        if when is not None and when != _CUT_OFF and not self._limit.expired():
            self._limit.reschedule(when + seconds)


class Gate:
    """Counts the images between upload and answer. Belongs to the event loop's thread.

    `seconds_per_image(model)` is the current estimate of the device time that one more image of a model costs; it is
    shared by `devices`.
    """

    def __init__(self, max_uploads: int) -> None:
        self.phase = Phase.STARTING
        self.seconds_per_image: Callable[[str], float] = lambda model: 0.0
        self.devices = 1
        self._max_uploads = max_uploads
        self._uploads: set[asyncio.Timeout] = set()
        self._accepted: set[asyncio.Timeout] = set()
        self._places: Counter[tuple[str, Priority]] = Counter()
        self._patience: asyncio.Timeout | None = None
        self._given_up = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._sending = 0
        self._sent = asyncio.Event()
        self._sent.set()

    @property
    def in_flight(self) -> int:
        """Images accepted and not yet answered."""
        return self._places.total()

    @property
    def uploads(self) -> int:
        """Bodies that are being received."""
        return len(self._uploads)

    @property
    def is_leaving(self) -> bool:
        """The end has begun."""
        return self.phase in (Phase.LEAVING, Phase.DRAINING, Phase.LOST)

    @property
    def sends_elsewhere(self) -> bool:
        """Whoever is answered now does better by another connection: the end has begun, or nothing is computed."""
        return self.is_leaving or self.phase is Phase.RECOVERING

    def check_phase(self) -> None:
        """Raise a Problem unless requests are answered."""
        if self.phase is Phase.STARTING:
            raise still_starting()
        if self.phase is Phase.RECOVERING:
            raise engine_stalled()
        if self.phase is Phase.LOST:
            raise engine_lost()
        if self.phase is Phase.DRAINING:
            raise _draining()

    def check_ready(self) -> None:
        """Raise a Problem unless requests are answered, and will be."""
        self.check_phase()
        if self.is_leaving:
            raise _draining()

    def check(self, place: Place, timeout: float, images: int = 1) -> None:
        """Raise a Problem if no request may come in now. Costs nothing: call it before reading the body.

        What could not be answered within `timeout` seconds, going by the work ahead of it, is refused at once:
        computing it would be in vain.
        """
        self.check_phase()
        ahead = self.seconds_ahead(place.priority)
        retry_after = min(max(math.ceil(ahead), 1), MAX_RETRY)
        taken = self._places[place.model, place.priority]
        if taken + images > place.limit:
            raise Problem(
                QUEUE_FULL,
                f"{taken} {place.priority.value} images wait for {place.model} and at most {place.limit} may; "
                f"try again later.",
                retry_after,
            )
        if ahead > HEADROOM * timeout:
            raise Problem(
                NO_TIME,
                f"About {ahead:.1f} s of work is waiting and this request has {timeout:g} s; try again later, or with "
                f"a longer timeout_ms.",
                retry_after,
            )

    def seconds_ahead(self, priority: Priority) -> float:
        """About how long a request that comes in now waits for a device.

        It waits for all that is in, but for its own priority's work no longer than that priority's share of the turns
        makes it.
        """
        own = others = 0.0
        for (model, of), images in self._places.items():
            seconds = images * self.seconds_per_image(model) / self.devices
            if of is priority:
                own += seconds
            else:
                others += seconds
        return min(own + others, own / SHARES[priority])

    @contextlib.asynccontextmanager
    async def upload(self, timeout: float) -> AsyncIterator[None]:
        """Around the reading of a body. Raises a Problem: too many of them are being read, it takes more than `timeout`
        seconds, or draining starts before it is complete.
        """
        if self.uploads >= self._max_uploads:
            raise Problem(
                TOO_MANY_UPLOADS, f"{self.uploads} other uploads are being received; try again later.", RETRY_STARTING
            )
        async with self._stay(self._uploads, timeout, slow_upload(timeout)):
            yield

    @contextlib.asynccontextmanager
    async def admit(self, place: Place, timeout: float, images: int = 1) -> AsyncIterator[Deadline]:
        """Hold places from acceptance to answer, at most `timeout` seconds unless the deadline that it yields is
        extended.

        Raises a Problem as `check` does, when the deadline has passed, or when draining takes too long.
        """
        self.check(place, timeout, images)
        self._empty.clear()
        key = place.model, place.priority
        self._places[key] += images
        try:
            async with self._stay(self._accepted, timeout, deadline_passed()) as limit:
                yield Deadline(limit, timeout)
        finally:
            self._places[key] -= images
            if not self._places[key]:
                del self._places[key]
            if not self._places:
                self._empty.set()

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Around an answer that is made while it is sent. It takes no place, for its client may read slowly, but
        `drain` waits for it as for what is in flight.
        """
        self._sending += 1
        self._sent.clear()
        try:
            yield
        finally:
            self._sending -= 1
            if not self._sending:
                self._sent.set()

    async def leave(self, seconds: float) -> None:
        """Be called not ready for so long, or until `give_up`, and answer as ever."""
        self.phase = Phase.LEAVING
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds) as self._patience:
                await asyncio.Event().wait()
        self._patience = None

    async def drain(self, timeout: float) -> bool:
        """Refuse everything new and return when nothing is in flight or being sent; False if `timeout` seconds were not
        enough.

        What is then still in flight is answered with 503.
        """
        if self.phase is not Phase.LOST:
            self.phase = Phase.DRAINING
        _cut_off(self._uploads)
        try:
            async with asyncio.timeout(0 if self._given_up else timeout) as self._patience:
                await self._empty.wait()
                await self._sent.wait()
            return True
        except TimeoutError:
            late = len(self._accepted) + self._sending
            if not late:  # the last one left at that moment
                return True
            logger.warning("%d requests were not answered in time and are dropped", late)
            _cut_off(self._accepted)
            await self._empty.wait()
            return False
        finally:
            self._patience = None

    def give_up(self) -> None:
        """Let `leave` and `drain` wait no longer."""
        self._given_up = True
        if self._patience is not None:
            _cut_off([self._patience])

    @contextlib.asynccontextmanager
    async def _stay(
        self, stays: set[asyncio.Timeout], timeout: float, too_late: Problem
    ) -> AsyncIterator[asyncio.Timeout]:
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                stays.add(limit)
                yield limit
        except TimeoutError:
            if not limit.expired():  # somebody else's
                raise
            raise (_draining() if limit.when() == _CUT_OFF else too_late) from None
        finally:
            stays.discard(limit)


def _cut_off(limits: Iterable[asyncio.Timeout]) -> None:
    for limit in limits:
        if not limit.expired():
            limit.reschedule(_CUT_OFF)
