"""What is answered below the application is counted and logged as all else is."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.service.harness import Server, head, until
from tests.service.http.impatience import answer_until_the_end

KIB = 1024


def count(server: Server, route: str, status: int) -> float:
    return server.metrics().get(f'maskserve_requests_total{{route="{route}",status="{status}"}}', 0.0)


def line_of(server: Server, answer: bytes) -> dict[str, Any]:
    """The log's line about an answer."""
    (identifier,) = (line for line in answer.split(b"\r\n") if line.startswith(b"x-request-id: "))
    wanted = identifier.removeprefix(b"x-request-id: ").decode()
    until(lambda: any(wanted in line for line in server.log))
    (found,) = (line for line in server.log if wanted in line)
    line: dict[str, Any] = orjson.loads(found)
    return line


@pytest.mark.parametrize(
    ("sent", "status", "problem"),
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\nX-Slow", 408, "slow-headers", id="a slow head"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + 65 * KIB * b"a", 431, "headers-too-large", id="a giant head"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01", 400, "bad-http-request", id="no HTTP"),
    ],
)
def test_a_head_that_is_refused(impatient: Server, sent: bytes, status: int, problem: str) -> None:
    before = count(impatient, "unmatched", status)
    with impatient.connect() as connection:
        connection.sendall(sent)
        answer = answer_until_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert count(impatient, "unmatched", status) == before + 1
    line = line_of(impatient, answer)
    assert (line["status"], line["problem"], line["method"], line["path"]) == (status, problem, "-", "-")
    assert (line["client"], line["bytes_out"]) == ("127.0.0.1", len(answer))
    assert line["bytes_in"] == min(len(sent), 64 * KIB)
    assert line["duration_ms"] >= (500 if status == 408 else 0)


def test_a_body_that_breaks_off_is_counted_once_as_what_its_client_got(impatient: Server) -> None:
    before, left = count(impatient, "/predict", 400), count(impatient, "/predict", 499)
    with impatient.connect() as connection:
        connection.sendall(head("Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
        until(lambda: impatient.metrics()["maskserve_uploads_in_flight"] == 1)
        connection.sendall(b"not a length\r\n")
        answer = answer_until_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    until(lambda: count(impatient, "/predict", 400) == before + 1)
    assert count(impatient, "/predict", 499) == left
    assert line_of(impatient, answer)["problem"] == "bad-http-request"


def test_a_connection_on_which_nothing_came_is_no_request(impatient: Server) -> None:
    before = count(impatient, "unmatched", 408)
    with impatient.connect() as connection:
        assert answer_until_the_end(connection) == b""
    assert count(impatient, "unmatched", 408) == before
