"""Clients that ask for more than they read, against a real uvicorn."""

from __future__ import annotations

import threading
import time

from starlette.types import Receive, Scope, Send

from tests.patience import PATIENCE
from tests.service.http.connections import GET, KIB, SHORT, connect, read_answer, serving

LARGE = 64 * KIB * KIB
"""Far more than the system keeps for a connection."""


class Generous:
    """Answers with `LARGE` bytes at once, and knows of clients that left before they had them."""

    def __init__(self) -> None:
        self.left = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(b"content-length", str(LARGE).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(LARGE // 2), "more_body": True})
        await send({"type": "http.response.body", "body": bytes(LARGE // 2)})
        if (await receive())["type"] == "http.disconnect":
            self.left.set()


def test_who_reads_nothing_is_cut_off() -> None:
    app = Generous()
    with serving(app, unread_timeout=SHORT) as address, connect(address) as connection:
        connection.sendall(GET)
        assert app.left.wait(PATIENCE)
        received = 0
        try:
            while piece := connection.recv(1 << 20):
                received += len(piece)
        except ConnectionResetError:
            pass
        assert received < LARGE


def test_who_reads_slowly_is_not() -> None:
    with serving(Generous(), unread_timeout=4 * SHORT) as address, connect(address) as connection:
        connection.sendall(GET)
        begun, received = time.monotonic(), 0
        while time.monotonic() - begun < 16 * SHORT:  # several times as long as it may take to read nothing
            received += len(connection.recv(1 << 20))
            time.sleep(SHORT / 2)
        while received < LARGE:
            piece = connection.recv(1 << 20)
            assert piece, "cut off"
            received += len(piece)


def test_who_reads_all_may_ask_again() -> None:
    with serving(Generous(), unread_timeout=SHORT) as address, connect(address) as connection:
        for _ in range(2):
            connection.sendall(GET)
            assert len(read_answer(connection).body) == LARGE
            time.sleep(2 * SHORT)
