"""HEAD wherever there is GET: the same status and headers, and no body."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.service.harness import Server, until
from tests.service.http.connections import read_answer

OPERATIONS = ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", "/v2/models/probe/ready")
UNSEEN = ("/", "/page/main.js", "/page/samples/small.png", "/docs", "/openapi.json")
CHANGING = {"date", "x-request-id"}


def ask(server: Server, method: str, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
    """Over a connection on which a second request shows where the answer to the first ended."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]
    with server.connect() as connection:
        connection.sendall("\r\n".join(lines).encode())
        if method == "HEAD":
            begun = b""
            while not begun.endswith(b"\r\n\r\n"):
                begun += connection.recv(1)
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_answer(connection).body == b'{"status":"alive","models":[]}'
            first, *rest = begun.decode().strip().split("\r\n")
            return int(first.split()[1]), dict(line.split(": ", 1) for line in rest), b""
        answer = read_answer(connection)
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.body


def readable(server: Server) -> list[str]:
    paths: dict[str, Any] = server.client.get("/openapi.json").json()["paths"]
    filled = {path: path.replace("{name}", "probe").replace("{version}", "1") for path in paths}
    return [filled[path] for path, operations in paths.items() if "get" in operations]


def test_every_documented_get_has_its_head(server: Server) -> None:
    paths = readable(server)
    assert {*OPERATIONS, "/models", "/models/probe", "/v2", "/v2/models/probe/versions/1"} <= {*paths}
    for path in [*paths, *UNSEEN]:
        status, headers, _ = ask(server, "HEAD", path)
        expected_status, expected, body = ask(server, "GET", path)
        assert (status, expected_status) == (200, 200), path
        assert headers.keys() == expected.keys(), path
        same = {*headers} - CHANGING - ({"content-length"} if path == "/metrics" else set())
        assert {name: headers[name] for name in same} == {name: expected[name] for name in same}, path
        if path != "/metrics":
            assert headers["content-length"] == str(len(body)), path


def test_the_headers_are_those_of_the_compressed_answer(server: Server) -> None:
    status, headers, _ = ask(server, "HEAD", "/openapi.json", "Accept-Encoding: gzip")
    _, expected, _ = ask(server, "GET", "/openapi.json", "Accept-Encoding: gzip")
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert headers["content-length"] == expected["content-length"]


@pytest.mark.parametrize(("path", "status"), [("/models/none", 404), ("/no-such-path", 404), ("/predict", 405)])
def test_refusals_are_the_same_too(server: Server, path: str, status: int) -> None:
    assert ask(server, "HEAD", path)[0] == ask(server, "GET", path)[0] == status


def test_it_is_counted_and_logged_as_what_it_is(server: Server) -> None:
    def count() -> float:
        return server.metrics().get('maskserve_requests_total{route="/models/{name}",status="200"}', 0.0)

    before = count()
    _, headers, _ = ask(server, "HEAD", "/models/probe")
    assert count() == before + 1
    identifier = headers["x-request-id"]
    until(lambda: any(identifier in line for line in server.log))
    line = next(line for line in server.log if identifier in line)
    assert "HEAD /models/probe" in orjson.loads(line)["message"]
