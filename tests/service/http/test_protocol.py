"""Connections that misbehave, against a real uvicorn with the limited protocol over a small application."""

from __future__ import annotations

import logging
import select
import socket
import time
from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from service.http.problems import (
    BAD_HTTP,
    HEADER_TIMEOUT,
    HEADERS_TOO_LARGE,
)
from service.http.protocol import MAX_HEAD_BYTES
from tests.patience import PATIENCE
from tests.service.http.connections import (
    EARLY,
    GET,
    KIB,
    SHORT,
    Recorder,
    assert_problem,
    assert_refused,
    connect,
    read_answer,
    serving,
)


@pytest.fixture(scope="module")
def untouched() -> Iterator[tuple[str, int]]:
    """The address of a server for all requests that never come through to its application."""
    app = Recorder()
    with serving(app) as address:
        yield address
    assert app.paths == []


def send_for_ever(connection: socket.socket) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        connection.sendall(b"a")
        time.sleep(SHORT / 5)


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(b"\r\n", id="a blank line"),
        pytest.param(b"GE", id="half a method"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n", id="all but the last line"),
    ],
)
def test_a_head_that_is_not_complete_in_time_gets_408(begin: bytes) -> None:
    app = Recorder()
    with serving(app, header_timeout=SHORT) as address, connect(address) as connection:
        connection.sendall(begin)
        assert_refused(connection, HEADER_TIMEOUT)
    assert app.paths == []


def test_a_connection_on_which_nothing_was_sent_is_closed_without_a_word() -> None:
    app = Recorder()
    with serving(app, header_timeout=SHORT) as address, connect(address) as connection:
        assert connection.recv(1) == b""
    assert app.paths == []


def test_a_byte_now_and_then_wins_no_time() -> None:
    with serving(Recorder(), header_timeout=SHORT) as address, connect(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        deadline = time.monotonic() + PATIENCE
        while not select.select([connection], [], [], SHORT / 10)[0]:
            assert time.monotonic() < deadline, "never refused"
            connection.sendall(b"a")
        assert_problem(read_answer(connection), HEADER_TIMEOUT)


def test_a_slow_second_request_gets_408_counted_from_its_first_byte() -> None:
    with serving(Recorder(), header_timeout=SHORT) as address, connect(address) as connection:
        connection.sendall(GET)
        assert read_answer(connection).status == 200
        assert select.select([connection], [], [], 2 * SHORT)[0] == [], "an idle connection has the keep-alive time"
        connection.sendall(GET)
        assert read_answer(connection).status == 200
        connection.sendall(GET[:-1])
        assert_refused(connection, HEADER_TIMEOUT)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(b"", id="nothing follows"),
        pytest.param(b"\r\n", id="a blank line follows"),
    ],
)
def test_an_idle_connection_is_closed_without_a_word_after_the_keep_alive_time(more: bytes) -> None:
    with serving(Recorder(), keep_alive=SHORT) as address, connect(address) as connection:
        connection.sendall(GET)
        assert read_answer(connection).status == 200
        connection.sendall(more)
        assert connection.recv(1) == b""


def test_the_rest_of_a_body_that_was_answered_early_does_not_hold_the_connection() -> None:
    with serving(Recorder(), keep_alive=SHORT) as address, connect(address) as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        assert read_answer(connection).status == 200
        connection.sendall(b"12345")
        assert connection.recv(1) == b""


def test_a_slow_body_is_not_a_slow_head() -> None:
    with serving(Recorder(), header_timeout=SHORT) as address, connect(address) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
        assert select.select([connection], [], [], 2 * SHORT)[0] == []
        connection.sendall(b"123")
        assert read_answer(connection).body == b"3"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", id="unknown method"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", id="header without colon"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", id="path that is not ASCII"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            id="two lengths of one body",
        ),
    ],
)
def test_what_is_not_http_gets_400_as_a_problem(untouched: tuple[str, int], sent: bytes) -> None:
    with connect(untouched) as connection:
        connection.sendall(sent)
        assert_refused(connection, BAD_HTTP)


def test_a_malformed_body_gets_400_and_the_application_hears_that_the_client_is_gone() -> None:
    app = Recorder()
    with serving(app) as address, connect(address) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        connection.sendall(b"not a length\r\n")
        assert_refused(connection, BAD_HTTP)
        assert app.disconnected.wait(PATIENCE)


def test_what_the_application_answers_after_a_malformed_body_goes_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    app = Recorder()
    with serving(app) as address, connect(address) as connection:
        connection.sendall(
            b"POST /slow/early HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnot a length\r\n"
        )
        assert_refused(connection, BAD_HTTP)
        assert app.answered.wait(PATIENCE)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_malformed_body_that_is_answered_already_gets_no_second_answer() -> None:
    with serving(Recorder()) as address, connect(address) as connection:
        connection.sendall(EARLY)
        assert read_answer(connection).status == 200
        connection.sendall(b"not a length\r\n")
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(b"0\r\n" + 200 * KIB * b"X", id="a trailer"),
        pytest.param(b"0\r\n" + 15000 * b"X-Name: value\r\n", id="many trailers"),
        pytest.param(b"1;" + 200 * KIB * b"x", id="a chunk's extension"),
    ],
)
def test_what_comes_between_the_pieces_of_a_body_is_limited(more: bytes) -> None:
    with serving(Recorder()) as address, connect(address) as connection:
        connection.sendall(EARLY.replace(b"/early", b"/") + b"3\r\nabc\r\n")
        connection.sendall(more)
        assert_refused(connection, HEADERS_TOO_LARGE)


def test_a_trailer_is_no_header() -> None:
    seen: list[list[tuple[bytes, bytes]]] = []
    recorder = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await recorder(scope, receive, send)
        seen.append(scope["headers"])

    with serving(app) as address, connect(address) as connection:
        connection.sendall(EARLY.replace(b"/early", b"/") + b"3\r\nabc\r\n0\r\nX-API-Key: key\r\n\r\n")
        assert read_answer(connection).body == b"3"
    assert seen == [[(b"host", b"x"), (b"transfer-encoding", b"chunked")]]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /" + 65 * KIB * b"a", id="path"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + 65 * KIB * b"a", id="one value"),
        pytest.param(b"GET / HTTP/1.1\r\n" + 5000 * b"X-Name: value\r\n", id="many headers"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + 2048 * KIB * b"a" + b"\r\n\r\n", id="far too much"),
        pytest.param(70 * KIB * b"\r\n", id="blank lines"),
    ],
)
def test_a_giant_head_gets_431(untouched: tuple[str, int], sent: bytes) -> None:
    with connect(untouched) as connection:
        connection.sendall(sent)  # all of it, although the answer comes before
        assert_refused(connection, HEADERS_TOO_LARGE)


def test_a_refused_client_can_read_its_answer_after_it_has_sent_everything(untouched: tuple[str, int]) -> None:
    with connect(untouched) as connection:
        connection.sendall(GET[:-2] + b"X: " + 70 * KIB * b"a")
        assert select.select([connection], [], [], PATIENCE)[0], "never refused"
        for _ in range(5):  # into a connection that is reset, the second would fail
            connection.sendall(10 * KIB * b"a")
            time.sleep(SHORT / 20)
        assert_refused(connection, HEADERS_TOO_LARGE)


def test_a_giant_second_head_gets_431() -> None:
    with serving(Recorder()) as address, connect(address) as connection:
        for _ in range(2):  # each below the limit: nothing adds up
            connection.sendall(GET[:-2] + b"X: " + 40 * KIB * b"a" + b"\r\n\r\n")
            assert read_answer(connection).status == 200
        connection.sendall(GET[:-2] + b"X: " + 70 * KIB * b"a")
        assert_refused(connection, HEADERS_TOO_LARGE)


def test_the_limit_is_for_the_head_alone() -> None:
    start = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nX: " % (300 * KIB)
    head = start + (MAX_HEAD_BYTES - len(start) - 5) * b"a" + b"\r\n\r\n"
    with serving(Recorder()) as address, connect(address) as connection:
        connection.sendall(head + 300 * KIB * b"b")
        assert read_answer(connection).body == b"%d" % (300 * KIB)
        connection.sendall(GET)
        assert read_answer(connection).status == 200


def test_the_servers_end_is_closed_too_when_the_client_keeps_its_own_open() -> None:
    with serving(Recorder(), header_timeout=SHORT) as address, connect(address) as connection:
        connection.sendall(b"GET")
        assert_refused(connection, HEADER_TIMEOUT)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_for_ever(connection)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", id="two"),
        pytest.param(b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", id="no Host, with an offer"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="gzip"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="gzip, in a line of its own",
        ),
    ],
)
def test_a_head_that_rfc_9112_has_refused(untouched: tuple[str, int], sent: bytes) -> None:
    with connect(untouched) as connection:
        connection.sendall(sent)
        assert_problem(read_answer(connection), BAD_HTTP)
        assert connection.recv(1) == b""


def test_http_1_0_needs_no_host_and_codings_may_be_in_capitals() -> None:
    app = Recorder()
    with serving(app) as address:
        for sent in (
            b"GET / HTTP/1.0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        ):
            with connect(address) as connection:
                connection.sendall(sent)
                assert read_answer(connection).status == 200
