"""The clients of a server under test: so many connections, each with its next request once the last is answered.

It shares the cores with the server, so it does little: requests are whole before anything is measured, and answers are
only read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import uvloop

GIVE_UP_SECONDS = 300
POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request: which image it sent, how long its answer took, and the answer. Status 0: the connection broke, or
    what came was no HTTP."""

    image: int
    seconds: float
    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Load:
    """A turn of requests, in the order of their answers, and the seconds from its beginning to its last answer."""

    seconds: float
    exchanges: tuple[Exchange, ...]

    @property
    def failed(self) -> list[int]:
        """Statuses of what was no answer."""
        return [exchange.status for exchange in self.exchanges if exchange.status != 200]


def load(port: int, requests: Sequence[bytes], count: int, connections: int, *, keep: bool = False) -> Load:
    """Send `count` requests, the given ones in turn, over so many connections. Without `keep`, bodies are dropped."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_load(port, requests, count, connections, keep))


async def _load(port: int, requests: Sequence[bytes], count: int, connections: int, keep: bool) -> Load:
    exchanges: list[Exchange] = []
    numbers = iter(range(count))
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]
    began = time.perf_counter()
    await asyncio.gather(*(_client(port, stream, requests, numbers, exchanges, keep) for stream in streams))
    return Load(time.perf_counter() - began, tuple(exchanges))


async def _client(
    port: int,
    stream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    requests: Sequence[bytes],
    numbers: Iterator[int],
    exchanges: list[Exchange],
    keep: bool,
) -> None:
    reader, writer = stream
    for number in numbers:  # shared: each takes the next
        image = number % len(requests)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                writer.write(requests[image])
                status, body = await _answer(reader)
        except (OSError, EOFError, TimeoutError, ValueError):
            status, body = 0, b""
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        exchanges.append(Exchange(image, time.perf_counter() - began, status, body if keep else b""))
    writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body. asyncio.IncompleteReadError, an EOFError, when the connection ends before."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    _, found, rest = head.partition(b"\r\ncontent-length:")
    if found:
        return status, await reader.readexactly(int(rest.partition(b"\r\n")[0]))
    parts = []
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return status, b"".join(parts)


def first_answer(port: int, request: bytes, alive: Callable[[], None]) -> bytes:
    """Ask until there is an answer with status 200, and return its body. TimeoutError when there never is one.

    `alive` is called before every attempt and may raise.
    """
    deadline = time.perf_counter() + GIVE_UP_SECONDS
    while time.perf_counter() < deadline:
        alive()
        try:
            exchange = load(port, [request], 1, 1, keep=True).exchanges[0]
        except OSError:
            exchange = None
        if exchange is not None and exchange.status == 200:
            return exchange.body
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"nothing on port {port} answered 200 within {GIVE_UP_SECONDS} s")
