"""Clients of bad will, beside the good ones: each stands for a kind, and comes back as soon as it is turned away.

python -m tests.resilience.soak.nuisances HOST PORT    # until its stdin ends; then says what must not have been
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import resource
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.resilience.smuggling import PREDICT, SHAPES

IDLE = 2000
"""Connections on which nothing is ever said."""
PAUSE = 0.5
"""Seconds between two bytes of the slow, and before the others come back."""
ALL_THERE = 5.0
"""Seconds until each has come for the first time."""

PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
MULTIPART = b"Content-Type: multipart/form-data; boundary=b\r\n"
BOMB = gzip.compress(bytes(100_000_000), 9)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(host: str, port: int) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def idle(streams: Streams) -> None:
    await streams[0].read(1)


async def slow_head(streams: Streams) -> None:
    await _drop_by_drop(streams, PREDICT + b"X: " + bytes(1000))


async def slow_body(streams: Streams) -> None:
    streams[1].write(PREDICT + b"Content-Type: image/png\r\nContent-Length: 100000\r\n\r\n")
    await _drop_by_drop(streams, b"\x89PNG\r\n\x1a\n" + bytes(1000))


async def endless_parts(streams: Streams) -> None:
    reader, writer = streams
    writer.write(PREDICT + MULTIPART + b"Transfer-Encoding: chunked\r\n\r\n")
    piece = PART + bytes(10_000) + b"\r\n"
    while not writer.is_closing() and not reader.at_eof():
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        await asyncio.sleep(0.01)


async def bomb(streams: Streams) -> None:
    reader, writer = streams
    head = b"Content-Type: image/png\r\nContent-Encoding: gzip\r\nConnection: close\r\n"
    writer.write(PREDICT + head + b"Content-Length: %d\r\n\r\n" % len(BOMB) + BOMB)
    said = await reader.readline()
    assert not said or said.split()[1] in (b"413", b"429"), said


async def smuggling(streams: Streams) -> None:
    """Every shape is refused, and what is hidden in it is no request."""
    _, writer = streams
    host, port = writer.get_extra_info("peername")[:2]
    for name, shape in SHAPES.items():
        async with connected(host, port) as (reader, other):
            other.write(shape)
            answers = await reader.read(-1)
            assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"400"], (name, answers)


async def abandoning(streams: Streams) -> None:
    """Gone in the middle of a body, as a process that dies goes."""
    writer = streams[1]
    writer.write(PREDICT + b"Content-Type: image/png\r\nContent-Length: 1000\r\n\r\nabc")
    await asyncio.sleep(0.05)
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def half_closed(streams: Streams) -> None:
    """Says that it has said all, and still wants its answer."""
    reader, writer = streams
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.write_eof()
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


KINDS: dict[Callable[[Streams], Awaitable[None]], int] = {
    idle: IDLE,
    slow_head: 20,
    slow_body: 20,
    endless_parts: 1,
    bomb: 1,
    smuggling: 1,
    abandoning: 4,
    half_closed: 2,
}
"""How many there are of each at once."""


async def annoy(host: str, port: int, findings: list[str]) -> None:
    """All of them until it is cancelled. What must not be is written into `findings`."""

    async def again_and_again(kind: Callable[[Streams], Awaitable[None]], after: float) -> None:
        await asyncio.sleep(after)
        while True:
            try:
                async with connected(host, port) as streams:
                    await kind(streams)
            except (OSError, EOFError):
                pass  # turned away, as it should be
            except AssertionError as error:
                findings.append(f"{kind.__name__}: {error}")
            await asyncio.sleep(PAUSE)

    async with asyncio.TaskGroup() as group:
        for kind, count in KINDS.items():
            for number in range(count):
                group.create_task(again_and_again(kind, ALL_THERE * number / count))


@asynccontextmanager
async def nuisances(url: str, findings: list[str]) -> AsyncIterator[None]:
    """All of them meanwhile, in a process of their own: what they compute must not keep good clients from asking."""
    host, port = url.removeprefix("http://").split(":")
    command = [sys.executable, "-m", "tests.resilience.soak.nuisances", host, port]
    pipe, root = asyncio.subprocess.PIPE, Path(__file__).resolve().parents[3]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=root)
    try:
        yield
    finally:
        said, _ = await process.communicate(b"")  # its stdin ends
        findings += json.loads(said) if process.returncode == 0 else ["the clients of bad will ended by themselves"]


async def _until_told(host: str, port: int) -> list[str]:
    findings: list[str] = []
    annoying = asyncio.create_task(annoy(host, port, findings))
    told = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait([annoying, told], return_when=asyncio.FIRST_COMPLETED)
    annoying.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await annoying
    return [*dict.fromkeys(findings)]


async def _drop_by_drop(streams: Streams, content: bytes) -> None:
    reader, writer = streams
    for start in range(len(content)):
        writer.write(content[start : start + 1])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader.read(1), PAUSE)
            return  # answered, or closed


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, IDLE + 1000), most))
    print(json.dumps(asyncio.run(_until_told(sys.argv[1], int(sys.argv[2])))))
