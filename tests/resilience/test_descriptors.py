"""No file descriptors are left: who is connected is answered, and who waits is answered afterwards."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from service.settings.listen import MOST_FILES
from tests.resilience.books import Books, agree
from tests.service.harness import Server, encode, head, picture
from tests.service.http.connections import read_answer

PNG = encode(picture(1))
PREDICT = head(f"Content-Length: {len(PNG)}") + PNG
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
FEW = 1024

pytestmark = pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="only on Linux can another process's limit be changed"
)


@contextmanager
def at_most(server: Server, files: int) -> Iterator[None]:
    """The server may have so many open."""
    before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)


def files_of(server: Server) -> int:
    return len([*Path(f"/proc/{server.process.pid}/fd").iterdir()])


def test_it_allows_itself_what_it_may(start_server: Callable[..., Server]) -> None:
    """Begun with as few as most systems begin with."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] <= FEW:
        pytest.skip("the system allows a process no more")
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, before[1]))
    try:
        server = start_server(forked=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    assert soft > FEW
    assert soft == hard or soft >= MOST_FILES


def test_without_any_and_afterwards(start_server: Callable[..., Server]) -> None:
    server, books = start_server("--poll-interval-ms", "10", "--log-level", "debug"), Books()
    with ExitStack() as stack:
        kept = stack.enter_context(server.connect())
        kept.sendall(GET)
        books.write([read_answer(kept).status])
        for _ in range(2):  # it recovers more than once
            with at_most(server, 3):
                late = [stack.enter_context(server.connect()) for _ in range(20)]
                for connection in late:
                    connection.sendall(PREDICT)
                for _ in range(5):
                    kept.sendall(PREDICT)
                    books.write([read_answer(kept).status])
            books.write(read_answer(connection).status for connection in late)
        assert books.answers == {200: 51}
    agree(books, server)
    assert server.stop() == 0


def test_with_few_left_whoever_is_not_turned_away_is_answered(start_server: Callable[..., Server]) -> None:
    """While threads take and give back descriptors, too."""
    server, books = start_server("--poll-interval-ms", "1", "--log-level", "debug"), Books()
    with ExitStack() as stack:
        kept = stack.enter_context(server.connect())
        kept.sendall(GET)
        books.write([read_answer(kept).status])
        with at_most(server, files_of(server) + 5):
            crowd = [stack.enter_context(server.connect()) for _ in range(40)]
            for _ in range(5):
                kept.sendall(PREDICT)
                books.write([read_answer(kept).status])
        for connection in crowd:
            with suppress(OSError):  # closed before it could ask: what nobody read is no request
                connection.sendall(GET)
                books.write([read_answer(connection).status])
        with server.connect() as connection:
            connection.sendall(PREDICT)
            books.write([read_answer(connection).status])
    assert set(books.answers) == {200}
    agree(books, server)
