"""Clients of HTTP/1.0, such as nginx unless told otherwise: they know no chunks and no interim responses."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from service.http.problems import BAD_HTTP
from tests.service.http.connections import Recorder, assert_problem, connect, read_answer, serving

PIECES = (b"one\n", b"", b"another\n")


async def in_pieces(scope: Scope, receive: Receive, send: Send) -> None:
    """An answer whose length is not known when it begins."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for piece in PIECES:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def everything(address: tuple[str, int], sent: bytes) -> bytes:
    with connect(address) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_an_answer_of_unknown_length_ends_with_the_connection() -> None:
    with serving(in_pieces) as address:
        head, _, body = everything(address, b"GET / HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body == b"".join(PIECES)


def test_head_has_none() -> None:
    with serving(in_pieces) as address:
        assert everything(address, b"HEAD / HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n")


def test_others_get_it_in_chunks() -> None:
    with serving(in_pieces) as address, connect(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = read_answer(connection)
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.body == b"".join(PIECES)


def test_a_length_that_is_known_is_told() -> None:
    with serving(Recorder()) as address:
        answer = everything(address, b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc")
    assert b"content-length: 1\r\n" in answer
    assert answer.endswith(b"\r\n\r\n3")


def test_nobody_is_told_to_continue() -> None:
    with serving(Recorder()) as address:
        answer = everything(address, b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("version", ["0.9", "2.0"])
def test_other_versions_are_refused(version: str) -> None:
    app = Recorder()
    with serving(app) as address, connect(address) as connection:
        connection.sendall(f"GET / HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        assert_problem(read_answer(connection), BAD_HTTP)
    assert app.paths == []
