"""Clients of bad will at a real server: each is turned away, and the next good request is answered."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.resilience.books import Books, agree
from tests.resilience.smuggling import HIDDEN, SHAPES
from tests.service.harness import Server, encode, picture, until
from tests.service.http.impatience import answer_until_the_end

PNG = encode(picture(1))
IDLE = 2000
MOST_BYTES = 200_000


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process may have as many connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < IDLE + 200:
        pytest.skip("the system allows a process fewer connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (IDLE + 200, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    server = Server.start(repository, "--max-body-bytes", str(MOST_BYTES), "--engine-threads", "1")
    yield server
    server.close()


def test_connections_that_idle_keep_nobody_out_and_are_closed(
    start_server: Callable[..., Server], many_files: None
) -> None:
    server, books = start_server("--header-timeout-ms", "1500"), Books()
    with ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(IDLE)]
        for _ in range(20):
            books.write([server.predict(PNG).status_code])
        for connection in idle:
            assert connection.recv(1) == b"", "closed, without a word"
    assert books.answers == {200: 20}
    agree(books, server)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_hidden_in_a_request_is_none(server: Server, shape: str) -> None:
    with server.connect() as connection:
        connection.sendall(SHAPES[shape])
        answers = answer_until_the_end(connection)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"400"]
    assert server.predict(PNG).status_code == 200


def test_what_they_hide_would_be_answered(server: Server) -> None:
    """The test before would pass with a hidden request that nobody understands."""
    with server.connect() as connection:
        connection.sendall(HIDDEN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert answer_until_the_end(connection).startswith(b"HTTP/1.1 200 ")


def test_parts_without_end_are_cut_off_at_the_limit(server: Server) -> None:
    """Nobody waits for the rest."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n\r\n'
    with server.connect() as connection, suppress(ConnectionError):
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(MOST_BYTES // len(part) + 1):
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413 ")
    until(lambda: server.metrics()["maskserve_uploads_in_flight"] == 0)
    assert server.predict(PNG).status_code == 200
