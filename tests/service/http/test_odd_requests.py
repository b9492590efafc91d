"""Requests that are HTTP, and that no client in its senses sends: each is answered for what it is, never with 500."""

from __future__ import annotations

import gzip

import pytest

from service.http.problems import MOST_ERRORS
from service.prediction.intake import MOST_SMALL
from tests.service.harness import Server, encode, head, picture
from tests.service.http.connections import Answer, read_answer
from tests.service.http.impatience import problem_type

PNG = encode(picture(1))


def answered(server: Server, sent: bytes) -> Answer:
    with server.connect() as connection:
        connection.sendall(sent)
        return read_answer(connection)


def test_a_length_may_have_any_number_of_zeros_in_front(server: Server) -> None:
    zeros = "0" * 5000
    assert answered(server, head(f"Content-Length: {zeros}{len(PNG)}") + PNG).status == 200
    assert answered(server, head(f"Content-Length: {zeros}999999999999")).status == 413


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "null", "\xff", "http://a]b", ""])
def test_an_origin_that_is_none_is_no_page_of_ours(server: Server, origin: str) -> None:
    sent = f"POST /models/probe/reload HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\nContent-Length: 0\r\n\r\n"
    assert answered(server, sent.encode("latin-1")).status == 403


@pytest.mark.parametrize(
    ("target", "status"),
    [
        pytest.param(b"/nowhere?\xff", 400, id="no route"),
        pytest.param(b"/healthz/?\xff", 400, id="a slash too many"),
        pytest.param(b"/nowhere?%ff", 404, id="no route, escaped"),
        pytest.param(b"/healthz/?%ff", 307, id="a slash too many, escaped"),
        pytest.param(b"/healthz?%ff%00[", 200, id="escaped"),
    ],
)
def test_a_query_that_is_not_ascii(server: Server, target: bytes, status: int) -> None:
    assert answered(server, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n").status == status


@pytest.mark.parametrize("encodings", [("identity", "gzip"), ("gzip", "identity"), ("gzip", "gzip")])
def test_several_encodings_are_a_list(server: Server, encodings: tuple[str, str]) -> None:
    body = gzip.compress(PNG)
    lines = [f"Content-Encoding: {encoding}" for encoding in encodings]
    answer = answered(server, head(*lines, f"Content-Length: {len(body)}") + body)
    assert answer.status == 415


def test_of_thousands_of_wrong_parameters_some_are_named(server: Server) -> None:
    answer = server.client.post("/predict?" + "&".join(f"a{index}" for index in range(3000)), content=PNG)
    assert (answer.status_code, problem_type(answer)) == (422, "invalid-parameter")
    assert len(answer.json()["errors"]) == MOST_ERRORS
    assert answer.json()["detail"].endswith(f"; and {3000 - MOST_ERRORS} more")


@pytest.mark.parametrize("path", ["index", "models/probe/load", "models/probe/unload"])
def test_a_body_that_names_a_version_is_small(server: Server, path: str) -> None:
    body = b'{"a": "' + b"a" * MOST_SMALL + b'"}'
    for content, headers in ((body, {}), (gzip.compress(body), {"Content-Encoding": "gzip"})):
        answer = server.client.post(f"/v2/repository/{path}", content=content, headers=headers)
        assert (answer.status_code, problem_type(answer)) == (413, "too-many-bytes")


@pytest.mark.parametrize("path", ["index", "models/probe/load", "models/probe/unload"])
def test_and_must_come_in_time(impatient: Server, path: str) -> None:
    sent = f"POST /v2/repository/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{{"
    answer = answered(impatient, sent.encode())
    assert answer.status == 408
    assert b"slow-upload" in answer.body
