"""Several requests on a connection, against a real uvicorn: each has its turn, whatever comes behind it."""

from __future__ import annotations

import threading

import pytest
from starlette.types import Receive, Scope, Send

from service.http.problems import (
    ANSWERED,
    BAD_HTTP,
    CLIENT_LEFT,
    HEADER_TIMEOUT,
    HEADERS_TOO_LARGE,
    ProblemKind,
)
from tests.patience import PATIENCE
from tests.service.http.connections import (
    EARLY,
    GET,
    KIB,
    SHORT,
    Recorder,
    assert_refused,
    connect,
    read_answer,
    serving,
)


def test_a_slow_head_behind_a_request_waits_for_that_ones_answer() -> None:
    with serving(Recorder(), header_timeout=SHORT) as address, connect(address) as connection:
        connection.sendall(GET.replace(b"/", b"/slow", 1) + b"GET /")
        assert read_answer(connection).status == 200
        assert_refused(connection, HEADER_TIMEOUT)


def test_requests_in_one_packet_are_all_answered() -> None:
    app = Recorder()
    with serving(app) as address, connect(address) as connection:
        connection.sendall(GET.replace(b"/", b"/slow", 1) + 2 * GET)
        assert [read_answer(connection).status for _ in range(3)] == [200, 200, 200]
    assert app.paths == ["/slow", "/", "/"]


def test_a_malformed_body_is_answered_when_those_before_it_are() -> None:
    app = Recorder()
    with serving(app) as address, connect(address) as connection:
        connection.sendall(GET.replace(b"/", b"/slow", 1) + GET + EARLY)
        connection.sendall(b"not a length\r\n")
        assert [read_answer(connection).status for _ in range(2)] == [200, 200]
        assert_refused(connection, BAD_HTTP)
    assert app.paths == ["/slow", "/"]


@pytest.mark.parametrize(
    ("behind", "kind"),
    [
        pytest.param(b"\x00\x01\x02", BAD_HTTP, id="garbage"),
        pytest.param(GET[:-2] + b"X: " + 200 * KIB * b"a", HEADERS_TOO_LARGE, id="a giant head"),
        pytest.param(GET[:-2] + b"Host: y\r\n\r\n", BAD_HTTP, id="two hosts"),
    ],
)
@pytest.mark.parametrize("before", [1, 3])
def test_what_is_no_request_is_answered_when_those_before_it_are(behind: bytes, kind: ProblemKind, before: int) -> None:
    with serving(Recorder()) as address, connect(address) as connection:
        connection.sendall(GET.replace(b"/", b"/slow", 1) + (before - 1) * GET + behind)
        assert [read_answer(connection).status for _ in range(before)] == before * [200]
        assert_refused(connection, kind)


@pytest.mark.parametrize("behind", [GET, b"GET /", b"\x00\x01\x02"])
def test_nothing_is_read_behind_a_request_that_asks_for_the_end(behind: bytes) -> None:
    app = Recorder()
    with serving(app) as address, connect(address) as connection:
        connection.sendall(GET.replace(b"/", b"/slow", 1)[:-2] + b"Connection: close\r\n\r\n" + behind)
        assert read_answer(connection).status == 200
        assert connection.recv(1) == b""
    assert app.paths == ["/slow"]


@pytest.mark.parametrize("behind", [b"", GET, GET + GET[:9]], ids=["alone", "before another", "before two"])
def test_who_leaves_before_its_answer_is_known_to_have_left(behind: bytes) -> None:
    """Whatever the application answers then, and whether or not it is the connection's latest request."""
    known: list[int] = []
    done = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        known.append(scope["state"][ANSWERED])
        done.set()

    with serving(app) as address, connect(address) as connection:
        connection.sendall(GET + behind)
        connection.close()
        assert done.wait(PATIENCE)
    assert known == [CLIENT_LEFT]
