"""Ends connections whose client no longer reads: what was written for it would lie in the server's memory for ever."""

from __future__ import annotations

import asyncio
from typing import Final

UNREAD_SECONDS: Final = 30.0
"""In which a client must read something of an answer that is more than the system takes. However little will do."""


class Unread:
    """What one connection holds for a client that has not read it yet. Belongs to the event loop's thread."""

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        self._transport = transport
        self._seconds = seconds
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """There is more than the transport likes to hold."""
        self._left = self._transport.get_write_buffer_size()
        self._look_later()

    def end(self) -> None:
        """There is not, or the connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        self.end()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)

    def _look(self) -> None:
        left = self._transport.get_write_buffer_size()
        if left < self._left:
            self._left = left
            self._look_later()
        else:
            self._timer = None
            self._transport.abort()
