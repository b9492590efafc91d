"""The headers of every answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response, StreamingResponse

from service.http.headers import SECURITY, SecurityHeaders, request_id
from tests.patience import PATIENCE
from tests.service.http.connections import serving

MADE = re.compile(r"[0-9a-f]{32}")


def application(cross_origin: bool = False) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SecurityHeaders, cross_origin=cross_origin)

    @app.get("/id")
    async def identifier(request: Request) -> str:
        return str(request.state.request_id)

    @app.get("/own")
    async def own() -> Response:
        headers = {"cache-control": "max-age=60", "Content-Security-Policy": "default-src 'self'", "X-Request-ID": "x"}
        return Response("page", headers=headers)

    @app.get("/stream")
    async def stream() -> Response:
        return StreamingResponse(iter(["one ", "two"]))

    return app


@contextmanager
def client_of(app: FastAPI) -> Iterator[httpx.Client]:
    with (
        serving(app) as (host, port),
        httpx.Client(base_url=f"http://{host}:{port}", timeout=PATIENCE, trust_env=False, verify=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with client_of(application()) as client:
        yield client


@pytest.mark.parametrize("path", ["/id", "/stream", "/no-such-path", "/openapi.json"])
def test_every_answer_has_the_security_headers(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert SECURITY.items() <= {name: answer.headers.get(name) for name in SECURITY}.items()
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert MADE.fullmatch(answer.headers["x-request-id"])


def test_what_the_route_has_set_stays_except_the_id(client: httpx.Client) -> None:
    answer = client.get("/own", headers={"X-Request-ID": "mine"})
    assert answer.headers.get_list("cache-control") == ["max-age=60"]
    assert answer.headers.get_list("content-security-policy") == ["default-src 'self'"]
    assert answer.headers.get_list("x-request-id") == ["mine"]
    assert answer.headers["x-frame-options"] == "DENY"


def test_a_stream_arrives_whole(client: httpx.Client) -> None:
    assert client.get("/stream").text == "one two"


def test_other_origins_may_read_when_they_are_allowed_to() -> None:
    with client_of(application(cross_origin=True)) as client:
        answer = client.get("/id")
    assert "cross-origin-resource-policy" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param("a", id="one character"),
        pytest.param("0123456789abcdef" * 8, id="128 characters"),
        pytest.param("4bf92f35-77b3/4da6:a3ce+929d=0e0e@host._", id="every sign that is allowed"),
    ],
)
def test_a_clients_id_is_kept(client: httpx.Client, sent: str) -> None:
    answer = client.get("/id", headers={"X-Request-ID": sent})
    assert answer.headers["x-request-id"] == sent
    assert answer.json() == sent


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"a" * 129, id="too long"),
        pytest.param(b"two words", id="space"),
        pytest.param(b"line\n", id="line feed"),
        pytest.param(b"<script>", id="markup"),
        pytest.param("naïve".encode("latin-1"), id="not ASCII"),
    ],
)
def test_a_strange_id_is_replaced(sent: bytes) -> None:
    made = request_id({"type": "http", "headers": [(b"x-request-id", sent)]})
    assert MADE.fullmatch(made)


def test_two_requests_have_two_ids_and_the_application_knows_its_own(client: httpx.Client) -> None:
    first, second = client.get("/id"), client.get("/id")
    assert first.json() == first.headers["x-request-id"]
    assert first.json() != second.json()
