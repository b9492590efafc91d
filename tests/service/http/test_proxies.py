"""What proxies in front tell, and who is believed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette._utils import get_route_path
from starlette.types import Message, Receive, Scope, Send

from service.http.proxies import BehindProxy
from tests.service.harness import Server, until

OWN = {"models", "v2", "docs"}
TRUSTED = ("127.0.0.1", "10.0.0.0/8", "::1")


def seen(
    path: str,
    headers: dict[str, str] | None = None,
    *,
    root_path: str = "",
    client: str | None = "127.0.0.1",
    trusted: tuple[str, ...] = TRUSTED,
) -> Scope:
    """The scope of a request as the application gets it."""
    found: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(scope)

    async def nothing(*_: Any) -> Message:
        raise AssertionError

    scope = {
        "type": "http",
        "scheme": "http",
        "path": path,
        "root_path": "",
        "client": client and (client, 1234),
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    asyncio.run(BehindProxy(app, trusted, root_path, OWN)(scope, nothing, nothing))
    return found[0]


@pytest.mark.parametrize(
    ("header", "path", "root_path", "route"),
    [
        pytest.param("/seg", "/predict", "/seg", "/predict", id="cut off"),
        pytest.param("/seg", "/seg/predict", "/seg", "/predict", id="left"),
        pytest.param("/seg", "/seg", "/seg", "", id="nothing but the prefix, left"),
        pytest.param("/seg", "/", "/seg", "/", id="nothing but the prefix, cut off"),
        pytest.param("/seg/", "/predict", "/seg", "/predict", id="with a slash at its end"),
        pytest.param("/a/b.c~d", "/predict", "/a/b.c~d", "/predict", id="of several parts"),
        pytest.param("/seg", "/segments", "/seg", "/segments", id="another word that begins so"),
        pytest.param("/models", "/models/nuclei", "/models", "/models/nuclei", id="like a path of ours"),
        pytest.param("/v2/x", "/v2/health/live", "/v2/x", "/v2/health/live", id="like the beginning of one"),
        pytest.param("", "/predict", "", "/predict", id="empty"),
        pytest.param("/", "/predict", "", "/predict", id="none"),
        pytest.param("//evil.example", "/predict", "", "/predict", id="another host"),
        pytest.param("/a//b", "/predict", "", "/predict", id="an empty part"),
        pytest.param("seg", "/predict", "", "/predict", id="no path"),
        pytest.param("https://evil.example/", "/predict", "", "/predict", id="a whole address"),
        pytest.param("/a\\evil", "/predict", "", "/predict", id="a backslash"),
        pytest.param("/a?b", "/predict", "", "/predict", id="a query"),
        pytest.param("/%2f", "/predict", "", "/predict", id="encoded"),
        pytest.param("/m%20k", "/predict", "", "/predict", id="an encoded space"),
        pytest.param("/../x", "/predict", "", "/predict", id="out of the site"),
        pytest.param("/a/.", "/predict", "", "/predict", id="a dot at the end"),
        pytest.param("/.a/..b", "/predict", "/.a/..b", "/predict", id="names that begin with dots"),
    ],
)
def test_the_prefix_is_that_of_the_header(header: str, path: str, root_path: str, route: str) -> None:
    scope = seen(path, {"X-Forwarded-Prefix": header})
    assert (scope["root_path"], get_route_path(scope)) == (root_path, route)
    assert scope["path"] == root_path + route


@pytest.mark.parametrize(
    ("client", "trusted", "believed"),
    [
        ("127.0.0.1", TRUSTED, True),
        ("10.20.30.40", TRUSTED, True),
        ("::1", TRUSTED, True),
        ("192.0.2.1", TRUSTED, False),
        ("192.0.2.1", ("*",), True),
        ("127.0.0.1", (), False),
        (None, TRUSTED, False),
    ],
)
def test_only_trusted_proxies_are_believed(client: str | None, trusted: tuple[str, ...], believed: bool) -> None:
    headers = {"X-Forwarded-Prefix": "/evil", "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
    scope = seen("/predict", headers, root_path="/own", client=client, trusted=trusted)
    assert scope["root_path"] == ("/evil" if believed else "/own")
    assert scope["scheme"] == ("https" if believed else "http")
    assert (scope["client"] is not None and scope["client"][0] == "203.0.113.9") is believed


def test_a_prefix_that_is_passed_over_is_told_once(start_server: Callable[..., Server]) -> None:
    server = start_server()
    for _ in range(2):
        assert location(server, "/predict/", X_Forwarded_Prefix="/m%20k") == "/predict"
    until(lambda: any("/m%20k" in line for line in server.log))
    assert server.client.get("/healthz").status_code == 200
    assert sum("X-Forwarded-Prefix is passed over" in line for line in server.log) == 1


@pytest.mark.parametrize("path", ["/predict", "/seg/predict"])
def test_the_setting_holds_without_a_header(path: str) -> None:
    assert get_route_path(seen(path, root_path="/seg")) == "/predict"


def location(server: Server, path: str, **headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = server.client.post(path, headers={"Host": "site.example", **named}, follow_redirects=False)
    assert answer.status_code == 307
    return str(answer.headers["location"])


@pytest.mark.parametrize(
    "path", ["/predict/", "/predict/?masks=none&labels=a,%C3%A9%2F", "/models/nuclei/reload/", "/v2/models/stats/"]
)
@pytest.mark.parametrize("prefix", ["", "/seg"])
@pytest.mark.parametrize("scheme", ["http", "https", "wss", ""])
def test_redirects_keep_the_prefix_and_leave_the_rest_to_the_client(
    server: Server, path: str, prefix: str, scheme: str
) -> None:
    told = {"X_Forwarded_Prefix": prefix, "X_Forwarded_Proto": scheme, "X_Forwarded_Host": "evil.example"}
    assert location(server, path, **told) == prefix + path.replace("/?", "?").removesuffix("/")


@pytest.mark.parametrize("prefix", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_redirects_lead_to_no_other_host(server: Server, prefix: str) -> None:
    assert location(server, "/predict/", X_Forwarded_Prefix=prefix) == "/predict"
    assert location(server, "/predict/", Host="evil.example") == "/predict"


def test_a_prefix_that_nobody_trusted_sends_counts_for_nothing(start_server: Callable[..., Server]) -> None:
    server = start_server("--trusted-proxies", "192.0.2.0/24", "--root-path", "/seg/")
    told = {"X_Forwarded_Prefix": "/evil", "X_Forwarded_Proto": "https"}
    assert location(server, "/predict/", **told) == "/seg/predict"
    assert location(server, "/seg/predict/", **told) == "/seg/predict"
    for path in ("/v2/models/none", "/seg/v2/models/none"):  # as the Open Inference Protocol has it, wherever it stands
        answer = server.client.get(path)
        assert (answer.status_code, "error" in answer.json()) == (404, True)
    assert server.client.head("/seg/healthz").status_code == 200
