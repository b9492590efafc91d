"""How far a picture in tiles is, for whoever tells its client."""

from __future__ import annotations

import asyncio
import contextlib


class Progress:
    """`done` of so far `of` tiles are seen; 0 of 0 before there are any. Belongs to the event loop."""

    def __init__(self) -> None:
        self.done = 0
        self.of = 0
        self._news = asyncio.Event()

    def expect(self, tiles: int) -> None:
        """So many more are to be seen."""
        self.of += tiles
        self._news.set()

    def advance(self) -> None:
        """One more is seen."""
        self.done += 1
        self._news.set()

    def wake(self) -> None:
        """Let `news` return although there is none."""
        self._news.set()

    async def news(self, seconds: float) -> None:
        """Wait until something has changed since the last time, but not longer than so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()
