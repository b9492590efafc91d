"""Whether and when a failed request is tried again, and for how long altogether.

Predictions change nothing on the server, so any may be sent again. It is when that may help: the server is busy (429),
starting, draining or behind a proxy that cannot reach it (502, 503), or cannot be reached.

A connection that breaks before the answer is complete is tried again once, and so is the 500 that a proxy of Ray Serve
gives when it loses the process under the request. The first may be a server that was killed or replaced; after a second
it may be this image that ends them, and every other try would end one more.

A 504 is tried again once. The first may be the bad luck of a burst; after a second the image, or the server, is too
slow, and every other try would only add to its load. Not if the caller set the deadline: it meant what it said.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator

import httpx

from service.client.errors import (
    NOT_OURS,
    ClientError,
    ConnectionLostError,
    ServerProblem,
    TimedOutError,
    UnreachableError,
)

CONNECT_TIMEOUT = 10.0
FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0
"""Seconds. Without Retry-After the wait doubles from one to the other."""
JITTER = 0.25
"""How much longer than asked for a wait may be, so that clients refused together don't come back together."""

_PASSING = (429, 502, 503)
_FAILED = 500
_TOO_LATE = 504


class Attempts:
    """The tries of one request: at most 1 + `retries`, and none after `timeout` seconds."""

    def __init__(self, timeout: float, retries: int, has_deadline: bool = False) -> None:
        self._timeout = timeout
        self._end = time.monotonic() + timeout
        self._retries = retries
        self._late_retries = 0 if has_deadline else 1
        self._lost_retries = 1
        self._next_wait = FIRST_WAIT

    @property
    def remaining(self) -> float:
        """Seconds; never below a millisecond, as a time limit of 0 means something else to some."""
        return max(self._end - time.monotonic(), 1e-3)

    def patience(self) -> httpx.Timeout:
        """How long the next try may wait for the network at any one point."""
        remaining = self.remaining
        return httpx.Timeout(remaining, connect=min(remaining, CONNECT_TIMEOUT))

    def in_time(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """`chunks` as long as there is time; then TimedOutError, however steadily they trickle in."""
        for chunk in chunks:
            if time.monotonic() > self._end:
                raise self.timed_out()
            yield chunk

    def timed_out(self) -> TimedOutError:
        return TimedOutError(f"nothing complete after {self._timeout:g} s; give it longer, or send fewer at a time")

    def wait_after(self, failure: ClientError) -> float:
        """Seconds until the next try. Raises `failure` when there is none."""
        if self._retries <= 0 or not self._may_pass(failure):
            raise failure
        self._retries -= 1
        wait = failure.retry_after if isinstance(failure, ServerProblem) else None
        if wait is None:
            wait = self._next_wait
            self._next_wait = min(2 * wait, LONGEST_WAIT)
        wait *= 1 + JITTER * random.random()  # nosec B311  # no secret
        if wait >= self._end - time.monotonic():
            raise failure
        return wait

    def _may_pass(self, failure: ClientError) -> bool:
        if _is_lost(failure):
            self._lost_retries -= 1
            return self._lost_retries >= 0
        if not isinstance(failure, ServerProblem):
            return isinstance(failure, UnreachableError)
        if failure.status == _TOO_LATE:
            self._late_retries -= 1
            return self._late_retries >= 0
        return failure.status in _PASSING


def _is_lost(failure: ClientError) -> bool:
    """Whether the server went away under the request. What it says itself of a failure, it says in a problem."""
    if isinstance(failure, ServerProblem):
        return failure.status == _FAILED and failure.type == NOT_OURS
    return isinstance(failure, ConnectionLostError)
