"""Clients that close their sending side and wait for the answer, beside those that have left."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from starlette.types import Receive, Scope, Send

from service.http.protocol import CONTINUE
from tests.patience import PATIENCE
from tests.service.harness import Server, encode, head, picture
from tests.service.http.connections import GET, connect, read_answer, serving

BODY = b"12345"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n" + BODY


@dataclass
class Waiting:
    """Answers when `release` is set, unless the client has left before."""

    release: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        while message["type"] == "http.request" and message["more_body"]:
            message = await receive()
        following = asyncio.ensure_future(receive())
        while not (following.done() or self.release.is_set()):
            await asyncio.sleep(0.005)
        if "http.disconnect" in (message["type"], following.done() and following.result()["type"]):
            self.left.set()
            return
        following.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("request_", [GET, POST, GET + POST], ids=["GET", "POST", "two"])
def test_who_closes_only_its_sending_side_is_answered(request_: bytes) -> None:
    app = Waiting()
    with serving(app) as address, connect(address) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        if request_ != GET + POST:  # of two requests the server reads on when the first is answered
            for _ in range(3):
                assert connection.recv(len(CONTINUE), socket.MSG_WAITALL) == CONTINUE
        app.release.set()
        for _ in range(1 + (request_ == GET + POST)):
            answer = read_answer(connection)
            assert (answer.status, answer.body) == (200, b"ok")
        assert answer.headers["connection"] == "close" or request_ == GET + POST
        assert connection.recv(1) == b""
    assert not app.left.is_set()


@pytest.mark.parametrize(
    ("request_", "half"),
    [
        pytest.param(POST, False, id="the whole connection"),
        pytest.param(GET, False, id="without a body"),
        pytest.param(POST[:-1], True, id="within its body"),
        pytest.param(POST.replace(b"1.1", b"1.0"), True, id="HTTP/1.0, which has no interim responses"),
    ],
)
def test_who_closes_more_than_that_has_left(request_: bytes, half: bool) -> None:
    app = Waiting()
    with serving(app) as address, connect(address) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR) if half else connection.close()
        assert app.left.wait(PATIENCE)
        if half:
            assert connection.recv(1) == b""


def test_a_prediction_for_one_who_has_closed_its_sending_side(server: Server) -> None:
    data = encode(picture(1))
    with server.connect() as connection, ThreadPoolExecutor(1) as pool:
        with server.busy():
            connection.sendall(head(f"Content-Length: {len(data)}") + data)
            connection.shutdown(socket.SHUT_WR)
            answer = pool.submit(read_answer, connection)
        assert answer.result().status == 200
