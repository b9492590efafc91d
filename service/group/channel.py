"""How the parent of a group and a member talk: lines of JSON over a pair of sockets. Either side asks and answers."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson

LONGEST: Final = 1 << 28
"""Bytes of a line; the longest hold a member's metrics."""


class GoneError(Exception):
    """The other side has ended."""


class Channel:
    """`on_message(what, value)` hears what the other side tells or asks; what it returns is the answer. It runs in a
    task of its own, so that the next message need not wait for it.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_message: Callable[[str, Any], Awaitable[Any]],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._on_message = on_message
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone = False

    @classmethod
    async def over(cls, own: socket.socket, on_message: Callable[[str, Any], Awaitable[Any]]) -> Channel:
        """On one of a pair of sockets."""
        reader, writer = await asyncio.open_unix_connection(sock=own, limit=LONGEST)
        writer.transport.set_write_buffer_limits(0)  # so that `flush` waits for all of it
        return cls(reader, writer, on_message)

    def tell(self, what: str, value: Any = None) -> None:
        """Without an answer. Whether the other side still hears it, nobody knows."""
        self._write({"what": what, "value": value})

    async def ask(self, what: str, value: Any = None) -> Any:
        """The answer. Raises GoneError."""
        if self._gone:
            raise GoneError
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._write({"number": number, "what": what, "value": value})
            return await answer
        finally:
            del self._asked[number]

    async def listen(self) -> None:
        """Hear the other side until it has ended."""
        try:
            while line := await self._reader.readline():
                message = orjson.loads(line)
                if "what" in message:
                    task = asyncio.create_task(self._hear(message))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                elif (answer := self._asked.get(message["number"])) is not None and not answer.done():
                    answer.set_result(message["answer"])
        except (OSError, orjson.JSONDecodeError):  # it was killed, perhaps in the middle of a line
            pass
        self._gone = True
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(GoneError())

    async def flush(self) -> None:
        """Until the other side's socket has all that was told."""
        try:
            await self._writer.drain()
        except OSError:
            self._gone = True

    def send(self, data: bytes) -> None:
        """What the other side reads before it listens."""
        self._writer.write(data)

    def close(self) -> None:
        self._writer.close()

    async def _hear(self, message: dict[str, Any]) -> None:
        answer = await self._on_message(message["what"], message["value"])
        if "number" in message:
            self._write({"number": message["number"], "answer": answer})

    def _write(self, message: dict[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(encoded(message))


def encoded(message: dict[str, Any]) -> bytes:
    """The line that a message is."""
    return orjson.dumps(message) + b"\n"
