"""Over any run: requests sent = answered by status = counted by metrics = lines of the log, exactly."""

from __future__ import annotations

import random
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.patience import PATIENCE
from tests.resilience.books import LEFT, Books, agree, by_status, logged, reset
from tests.service.harness import Server, encode, head, picture, until
from tests.service.http.connections import read_answer

PNG = encode(picture(1))
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
GARBAGE = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"
BROKEN = b"3\r\nabc\r\nnot a length\r\n"
"""Chunks of a body."""
REFUSED = (400, 429, 431)
"""What a broken request is answered: 429 where a busy server refuses a prediction before it reads what is broken."""
CHUNKED = "Transfer-Encoding: chunked"
VISITS = 160
CLIENTS = 4

Visit = Callable[[socket.socket, random.Random], list[int | None]]
"""A client's stay on one connection: what each request that it sent was answered."""


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join((f"{line} HTTP/1.1", "Host: x", *headers, *length, "", "")).encode() + body


def multipart(*parts: bytes) -> bytes:
    lead = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    return b"".join(lead + part + b"\r\n" for part in parts) + b"--b--\r\n"


FORM = "Content-Type: multipart/form-data; boundary=b"
SINGLE = (
    request("GET /"),
    request("GET /healthz"),
    request("HEAD /readyz"),
    request("HEAD /models/nothing"),
    request("GET /v2/health/ready"),
    request("GET /models"),
    request("GET /nowhere?a=b"),
    request("GET /%00%ff//..%2f"),
    request("OPTIONS /predict", "Origin: http://a.example", "Access-Control-Request-Method: POST"),
    request("OPTIONS *"),
    request("PUT /predict", body=PNG),
    request("BREW /predict"),
    request("TRACE /"),
    request("POST /predict/", "Content-Type: image/png", body=PNG),
    request("POST /predict", "Content-Type: image/png", body=PNG),
    request("POST /predict", "Content-Type: image/png", "Accept: image/png", body=PNG),
    request("POST /predict", "Content-Type: image/png", "Accept: application/x-ndjson", body=PNG),
    request("POST /predict?format=csv", "Content-Type: image/png", body=PNG),
    request("POST /predict", "Content-Type: image/png", "Expect: 100-continue", body=PNG),
    request("POST /predict", "Content-Type: image/png", "Connection: Upgrade", "Upgrade: h2c", body=PNG),
    request("GET /", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    request("POST /predict", "Content-Type: image/png", body=b"no picture"),
    request("POST /predict", "Content-Type: image/png", "Content-Encoding: gzip", body=b"no gzip"),
    request("POST /predict?masks=oval", "Content-Type: image/png", body=PNG),
    request("POST /predict?model=nothing", "Content-Type: image/png", body=PNG),
    request("POST /predict", FORM, body=multipart(PNG)),
    request("POST /predict", FORM, body=b"--b\r\nno part"),
    request("POST /predict/batch", FORM, body=multipart(PNG, b"no picture")),
    request("POST /v2/models/probe/infer", body=b"{"),
    request("POST /models/probe/reload", body=b"{}"),
    request("GET /", "Host: y"),
    request("GET /", "Host:"),
    request("GET /predict/", "X-Forwarded-Prefix: /a/../b", "X-Forwarded-For: , ,", "X-Forwarded-Proto: \xff"),
    request("GET /docs/", "traceparent: 00-0-0-0", "X-Request-ID: a b\tc"),
    b"GET /docs/ HTTP/1.1\r\nHost: [\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: x:port\xff\r\n\r\n",
    b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    head(CHUNKED) + b"%x\r\n" % len(PNG) + PNG + b"\r\n0\r\nContent-Encoding: gzip\r\n\r\n",
)
"""Requests that get one answer each, whichever."""


def one_by_one(connection: socket.socket, draw: random.Random) -> list[int | None]:
    statuses: list[int | None] = []
    for sent in draw.choices(SINGLE, k=draw.randint(1, 6)):
        connection.sendall(sent)
        answer = read_answer(connection, sent.split(b" ")[0].decode())
        statuses.append(answer.status)
        if answer.headers["connection"] == "close":
            break
    return statuses


def in_one_packet(connection: socket.socket, draw: random.Random) -> list[int | None]:
    sent = draw.choices(SINGLE[:5], k=draw.randint(2, 8))
    connection.sendall(b"".join(sent))
    return [read_answer(connection, one.split(b" ")[0].decode()).status for one in sent]


def bad_behind_good(connection: socket.socket, draw: random.Random) -> list[int | None]:
    """What is no request gets its answer when those before it have theirs."""
    good = draw.randint(1, 3)
    bad = draw.choice([GARBAGE, b"GET / HTTP/1.1\r\nX: " + 200 * 1024 * b"a", head(CHUNKED) + BROKEN])
    connection.sendall(good * GET + bad)
    statuses: list[int | None] = [read_answer(connection).status for _ in range(good + 1)]
    assert statuses[-1] in REFUSED
    assert connection.recv(1) == b""
    return statuses


def broken_body(connection: socket.socket, draw: random.Random) -> list[int | None]:
    more = draw.choice([BROKEN, b"0\r\n" + 200 * 1024 * b"X", b"1;" + 200 * 1024 * b"x"])
    connection.sendall(head(CHUNKED))
    connection.sendall(more)
    status = read_answer(connection).status
    assert status in REFUSED
    return [status]


def half_a_head(connection: socket.socket, draw: random.Random) -> list[int | None]:
    """Of a client that then sends no more, but listens."""
    good = draw.randint(0, 2)
    connection.sendall(good * GET + draw.choice([b"G", b"GET / HTTP/1.1\r\nHost"]))
    connection.shutdown(socket.SHUT_WR)
    return [read_answer(connection).status for _ in range(good + 1)]


def slow_head(connection: socket.socket, draw: random.Random) -> list[int | None]:
    connection.sendall(draw.choice([b"GET / HT", b"POST /predict HTTP/1.1\r\n"]))
    return [read_answer(connection).status]


def nothing(connection: socket.socket, draw: random.Random) -> list[int | None]:
    """No request at all: a port that is tried, a line's end."""
    connection.sendall(draw.choice([b"", b"\r\n"]))
    return []


def spare(connection: socket.socket, draw: random.Random) -> list[int | None]:
    """A connection on which nothing comes is closed without a word after the time for a head."""
    assert connection.recv(1) == b""
    return []


def behind_the_last(connection: socket.socket, draw: random.Random) -> list[int | None]:
    """Whoever asks for the connection's end sends no more requests; what follows is none."""
    connection.sendall(request("GET /healthz", "Connection: close") + draw.choice([GET, GARBAGE, b"GET /"]))
    status = read_answer(connection).status
    assert connection.recv(1) == b""
    return [status]


def answered_early(connection: socket.socket, draw: random.Random) -> list[int | None]:
    """Refused from its head; then the body comes all the same, whole or broken."""
    connection.sendall(request("POST /predict", "Content-Type: text/plain", CHUNKED))
    statuses: list[int | None] = [read_answer(connection).status]
    if draw.random() < 0.5:
        connection.sendall(b"3\r\nabc\r\n0\r\n\r\n" + GET)
        statuses.append(read_answer(connection).status)
    else:
        connection.sendall(BROKEN)
        assert connection.recv(1) == b""
    return statuses


def leaves_in_the_head(connection: socket.socket, draw: random.Random) -> list[int | None]:
    connection.sendall(GET)
    status = read_answer(connection).status  # by now the connection is surely accepted
    connection.sendall(draw.choice([b"G", b"GET / HTTP/1.1\r\nHost"]))
    reset(connection)
    return [status, LEFT]


def leaves_in_the_body(connection: socket.socket, draw: random.Random) -> list[int | None]:
    connection.sendall(GET)
    status = read_answer(connection).status
    connection.sendall(draw.choice([head("Content-Length: 100") + b"abc", head(CHUNKED) + b"3\r\nab"]))
    reset(connection) if draw.random() < 0.5 else connection.close()
    return [status, LEFT]


def leaves_in_mid_answer(connection: socket.socket, draw: random.Random) -> list[int | None]:
    connection.sendall(draw.choice([request("GET /openapi.json"), request("GET /docs")]))
    assert connection.recv(9) == b"HTTP/1.1 "
    status = int(connection.recv(3))
    reset(connection)
    return [status]


def leaves_at_once(connection: socket.socket, draw: random.Random) -> list[int | None]:
    connection.sendall(GET)
    status = read_answer(connection).status
    connection.sendall(GET)
    reset(connection)
    return [status, None]


VISITORS: tuple[Visit, ...] = (
    one_by_one,
    in_one_packet,
    bad_behind_good,
    broken_body,
    half_a_head,
    nothing,
    behind_the_last,
    answered_early,
    leaves_in_the_head,
    leaves_in_the_body,
    leaves_in_mid_answer,
    leaves_at_once,
)


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    """With little room and all patience, and a log that has probes too."""
    flags = (
        f"--header-timeout-ms {1e3 * PATIENCE} --keep-alive-ms {1e3 * PATIENCE} --max-queue-size 3 --max-batch-images 2"
    )
    return start_server(*flags.split(), "--max-body-bytes", "200000", "--log-level", "debug", "--cors-origins", "*")


def test_every_request_is_counted_and_logged_once(server: Server) -> None:
    books = Books()

    def visit(seed: int) -> list[int | None]:
        draw = random.Random(seed)
        visitor = one_by_one if draw.random() < 0.4 else draw.choice(VISITORS)
        with server.connect() as connection:
            return visitor(connection, draw)

    with ThreadPoolExecutor(CLIENTS) as clients:
        for statuses in clients.map(visit, range(VISITS)):
            books.write(statuses)
    assert {200, 307, 400, 404, 405, 415, 422, 431, LEFT} <= set(books.answers)
    agree(books, server)


def test_a_head_that_is_late_is_counted_and_a_connection_that_idles_is_not(start_server: Callable[..., Server]) -> None:
    server, books = (
        start_server("--header-timeout-ms", "300", "--keep-alive-ms", "300", "--log-level", "debug"),
        Books(),
    )

    def visit(visitor: Visit) -> list[int | None]:
        with server.connect() as connection:
            return visitor(connection, random.Random(0))

    with ThreadPoolExecutor(4) as clients:
        for statuses in clients.map(visit, [slow_head, slow_head, spare, spare]):
            books.write(statuses)
    assert books.answers == {408: 2}
    agree(books, server)


def test_what_is_shed_left_behind_and_drained_is_counted_once(server: Server) -> None:
    books = Books()
    predict = request("POST /predict", "Content-Type: image/png", body=PNG)
    with server.busy() as blockers:
        waiting = [server.connect() for _ in range(2)]
        for connection in waiting:
            connection.sendall(predict)
        until(lambda: books_of(server, books)["maskserve_requests_in_flight"] == 3)
        for _ in range(3):
            books.write([ask(server, predict, 429)])
        reset(waiting[0])
        until(lambda: books_of(server, books)["maskserve_requests_in_flight"] == 2)
        books.write([LEFT])

        # Pipelined behind one that waits: whoever leaves takes all of them along.
        with server.connect() as connection:
            connection.sendall(predict + 2 * GET)
            until(lambda: books_of(server, books)["maskserve_requests_in_flight"] == 3)
        until(lambda: books_of(server, books)["maskserve_requests_in_flight"] == 2)
        books.write([LEFT, LEFT, LEFT])

        server.process.send_signal(signal.SIGTERM)
        until(lambda: ask_and_write(server, books, request("GET /readyz")) == 503)
        books.write([ask(server, predict, 503)])
        with server.connect() as connection:  # the first answer is the connection's last
            connection.sendall(3 * predict)
            assert read_answer(connection).status == 503
            assert connection.recv(1) == b""
        books.write([503, LEFT, LEFT])
        agree(books, server)
    books.write([blocker.result().status_code for blocker in blockers])
    books.write([read_answer(waiting[1]).status])
    waiting[1].close()
    assert server.process.wait(20) == 0
    until(lambda: logged(server).total() >= books.sent)
    books.check(by_status(logged(server)))
    assert books.answers[200] >= 2


def ask(server: Server, sent: bytes, expected: int) -> int:
    with server.connect() as connection:
        connection.sendall(sent)
        assert read_answer(connection).status == expected
    return expected


def ask_and_write(server: Server, books: Books, sent: bytes) -> int:
    with server.connect() as connection:
        connection.sendall(sent)
        status = read_answer(connection).status
    books.write([status])
    return status


def books_of(server: Server, books: Books) -> dict[str, float]:
    """The metrics, and that they were asked for."""
    metrics = server.metrics()
    books.write([200])
    return metrics
