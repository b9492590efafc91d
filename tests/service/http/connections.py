"""A real uvicorn with the limited protocol over a small application, and connections to it, byte by byte."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.problems import (
    MEDIA_TYPE,
    ProblemKind,
)
from service.http.protocol import protocol_class
from tests.patience import PATIENCE

SHORT = 0.15
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
KIB = 1024
EARLY = b"POST /early HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def serving(
    app: ASGIApp, header_timeout: float = PATIENCE, keep_alive: float = PATIENCE, unread_timeout: float = PATIENCE
) -> Iterator[tuple[str, int]]:
    """`app` on a uvicorn in a thread, at the yielded host and port."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol_class(header_timeout, unread_timeout=unread_timeout),
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_keep_alive=keep_alive,  # type: ignore[arg-type]  # seconds for call_later, which takes fractions
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


@dataclass
class Recorder:
    """Answers 200 with the length of the body; /slow takes a while, .../early does not wait for the body."""

    paths: list[str] = field(default_factory=list)
    disconnected: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        size, more = 0, not scope["path"].endswith("/early")
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected.set()
                return
            size += len(message["body"])
            more = message["more_body"]
        if scope["path"].startswith("/slow"):
            await asyncio.sleep(2 * SHORT)
        body = str(size).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self.answered.set()


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=PATIENCE)


def read_answer(connection: socket.socket, method: str = "GET") -> Answer:
    """The next answer on the connection, and not a byte more."""
    response = http.client.HTTPResponse(_Unbuffered(connection), method=method)  # type: ignore[arg-type]  # it only calls makefile
    response.begin()
    # In pieces: without a buffer a read gives what has come so far, and `read()` takes that for all.
    body = b"".join(iter(lambda: response.read(2**16), b""))
    return Answer(response.status, response.headers, body)


class _Unbuffered:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def makefile(self, mode: str) -> Any:
        return self._connection.makefile("rb", buffering=0)


def assert_problem(answer: Answer, kind: ProblemKind) -> None:
    assert answer.status == kind.status
    assert orjson.loads(answer.body)["type"] == kind.type
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert len(answer.headers["x-request-id"]) == 32


def assert_refused(connection: socket.socket, kind: ProblemKind) -> None:
    """The next answer is this problem, and then the connection ends."""
    assert_problem(read_answer(connection), kind)
    assert connection.recv(1) == b""
