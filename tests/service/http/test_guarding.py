"""What keeps the server safe from its clients, over real sockets: keys, CORS, headers, slow clients, hostile bodies."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from service.http.headers import SECURITY
from service.http.keys import OPEN
from tests.patience import PATIENCE
from tests.service.harness import Server, encode, head, picture, until
from tests.service.http.impatience import PNG, answer_until_the_end, problem_type

KEYS = {
    "variable": "key-of-the-variable-0123",
    "file": "key-of-the-file-0123456",
    "admin variable": "key-of-the-admin-variable",
    "admin file": "key-of-the-admin-file-012",
}
ORDINARY, ADMIN = KEYS["variable"], KEYS["admin variable"]
WRONG = "no-key-of-this-server-0123"
ORIGIN, FOREIGN = "https://lab.example", "https://evil.example"
FAILING = encode(picture(fail=True))


@pytest.fixture(scope="module")
def guarded(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys of both kinds from both sources, open to the pages of one origin, that logs all it can."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "api").write_text(f"# the lab's\n{KEYS['file']}\n")
    (folder / "admin").write_text(KEYS["admin file"])
    flags = ("--cors-origins", ORIGIN, "--log-level", "debug", "--engine-threads", "1")
    server = Server.start(
        repository,
        *flags,
        MASKSERVE_API_KEYS=ORDINARY,
        MASKSERVE_API_KEYS_FILE=str(folder / "api"),
        MASKSERVE_ADMIN_KEYS=ADMIN,
        MASKSERVE_ADMIN_KEYS_FILE=str(folder / "admin"),
    )
    yield server
    server.close()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def raw_status(server: Server, method: str, target: str, headers: dict[str, str]) -> int:
    """Of a request whose target is sent as it is."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
    try:
        connection.request(method, target, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


# Keys


def routes(server: Server) -> list[tuple[str, str]]:
    """Method and path of every route in the document, the parameters filled in."""
    document = server.client.get("/openapi.json", headers=bearer(ADMIN)).json()
    return [
        (method.upper(), path.format(name="probe", version=1))
        for path, operations in document["paths"].items()
        for method in operations
    ]


def is_administration(path: str) -> bool:
    return path.rsplit("/", 1)[1] in ("reload", "load", "unload", "promote", "unpin")


def test_every_route_but_health_needs_a_key(guarded: Server) -> None:
    """And the pages, which are not in the document."""
    tried = [*routes(guarded), ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/doc")]
    assert len(tried) > 20
    assert {path for _, path in tried} > OPEN - {"/"}
    for method, path in tried:
        for headers in ({}, bearer(WRONG), {"X-API-Key": WRONG}):
            answer = guarded.client.request(method, path, headers=headers)
            if path in OPEN:
                assert answer.status_code == 200, path
                continue
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert problem_type(answer) == "unauthorized"


@pytest.mark.parametrize("key", KEYS)
def test_a_key_opens_what_it_is_for_and_nothing_else(guarded: Server, key: str) -> None:
    administers = key.startswith("admin")
    opened = 0
    for method, path in routes(guarded):
        for headers in (bearer(KEYS[key]), {"X-API-Key": KEYS[key]}):
            answer = guarded.client.request(method, path, headers=headers)
            if is_administration(path) and not administers:
                assert answer.status_code == 403, (method, path)
                assert problem_type(answer) == "forbidden"
            else:
                assert answer.status_code not in (401, 403, 404, 405), (method, path, answer.text)
                opened += 1
            if path.endswith("/unload") and administers:
                load = guarded.client.post("/v2/repository/models/probe/load", headers=bearer(KEYS[key]))
                assert load.status_code == 200
    assert opened > 20
    answer = guarded.client.post("/predict", content=PNG, headers={"Content-Type": "image/png", **bearer(KEYS[key])})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/metrics?x=/healthz", id="health in the query"),
        pytest.param("/metrics#/healthz", id="health in the fragment"),
        pytest.param("/healthz/../metrics", id="dots behind health"),
        pytest.param("/healthz%2f..%2fmetrics", id="encoded dots"),
        pytest.param("/healthz;/metrics", id="a path parameter"),
        pytest.param("/healthz/", id="a slash too many"),
        pytest.param("//healthz", id="a slash too many before"),
        pytest.param("/HEALTHZ", id="upper case"),
        pytest.param("/healthz%00", id="a null character"),
        pytest.param("/%6detrics", id="encoded letters"),
        pytest.param("//metrics", id="two slashes"),
        pytest.param("http://healthz/metrics", id="a whole URL"),
        pytest.param("/no-such-path", id="no route at all"),
        pytest.param("/PAGE/main.js", id="the page in upper case"),
        pytest.param("/page", id="the page's folder"),
    ],
)
def test_no_spelling_of_a_path_gets_round_the_key(guarded: Server, target: str) -> None:
    for headers in ({}, {"X-Original-URL": "/healthz", "X-Forwarded-Prefix": "/healthz", "X-Rewrite-URL": "/healthz"}):
        assert raw_status(guarded, "GET", target, headers) == 401


@pytest.mark.parametrize(
    "target",
    [
        "/models/probe/reload/",
        "//models/probe/reload",
        "/models//probe/reload",
        "/models/probe/%72eload",
        "/models%2fprobe%2freload",
        "/models/x/../probe/reload",
        "/MODELS/probe/reload",
        "http://x/models/probe/reload",
        "/v2/repository/models/probe/unload/",
        "/v2/repository/../repository/models/probe/unload",
        "/v2//repository/models/probe/unload",
        "/v2/repository/models/probe/unload%00",
        "/v2/repository/models/probe/unload?/v2/repository/index",
    ],
)
def test_no_spelling_of_a_path_gets_round_the_admin_key(guarded: Server, target: str) -> None:
    assert raw_status(guarded, "POST", target, {}) == 401
    assert raw_status(guarded, "POST", target, bearer(ORDINARY)) == 403
    overridden = bearer(ORDINARY) | {"X-HTTP-Method-Override": "POST"}
    assert raw_status(guarded, "GET", target, overridden) >= 300
    assert guarded.client.get("/models", headers=bearer(ORDINARY)).json()["models"][0]["name"] == "probe"


def test_the_page_needs_no_key_and_opens_nothing_else(guarded: Server) -> None:
    assert guarded.client.get("/").status_code == 200
    assert guarded.client.get("/page/main.js").status_code == 200
    assert guarded.client.post("/").status_code == guarded.client.post("/page/main.js").status_code == 401
    for target in (
        "/page/../metrics",
        "/page/%2e%2e/metrics",
        "/page/..%2fmetrics",
        "/page//metrics",
        "/page/../keys.py",
        "/page/..%2fkeys.py",
        "/page/%2e%2e%2f%2e%2e%2fpyproject.toml",
        "/page/samples/..%2findex.html",
        "/page/%2fetc%2fpasswd",
    ):
        assert raw_status(guarded, "GET", target, {}) == 404, target


def test_the_refusal_comes_before_the_body(guarded: Server) -> None:
    with guarded.connect() as connection:
        connection.sendall(head("Content-Length: 1000000"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_keys_never_reach_the_log_or_an_answer(guarded: Server) -> None:
    shown = ""
    for key in (*KEYS.values(), WRONG):
        for headers in (bearer(key), {"X-API-Key": key}, {"Authorization": f"Basic {key}"}):
            for path in ("/predict", "/models/probe/nothing", "/v2/models/probe/infer", f"/models?api_key={key}"):
                shown += guarded.client.post(path, headers=headers, content=FAILING).text
        wrong_image = {"Content-Type": "image/png", **bearer(key)}
        shown += guarded.client.post("/predict", headers=wrong_image, content=FAILING).text
    identifier = guarded.client.get("/models", headers=bearer(ORDINARY)).headers["x-request-id"]
    until(lambda: any(identifier in line for line in guarded.log))
    shown += "".join([*guarded.log, *guarded.errors])
    assert "Traceback" in shown, "a failing image's stack trace would be the place to look"
    for key in (*KEYS.values(), WRONG):
        assert key not in shown


def test_without_an_admin_key_nobody_administers(repository: Path) -> None:
    server = Server.start(repository, "--api-keys", ORDINARY)
    try:
        for path in ("/models/probe/reload", "/v2/repository/models/probe/load", "/v2/repository/models/probe/unload"):
            assert server.client.post(path).status_code == 403
            answer = server.client.post(path, headers=bearer(ORDINARY))
            assert (answer.status_code, problem_type(answer)) == (403, "administration-off")
        assert server.client.get("/models", headers=bearer(ORDINARY)).status_code == 200
    finally:
        server.close()


def test_without_any_key_whoever_reaches_the_machine_may_predict_but_not_administer(repository: Path) -> None:
    server = Server.start(repository, "--host", "0.0.0.0")
    try:
        client = httpx.Client(base_url=server.url.replace("0.0.0.0", "127.0.0.1"), timeout=PATIENCE)
        answer = client.post("/models/probe/reload")
        assert (answer.status_code, problem_type(answer)) == (403, "administration-off")
        assert client.post("/predict", content=PNG, headers={"Content-Type": "image/png"}).status_code == 200
        client.close()
    finally:
        server.close()


def test_without_any_key_this_machine_may_administer(server: Server) -> None:
    assert server.client.post("/models/probe/reload").status_code == 200


# CORS

PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


def cors_headers(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("origin", [ORIGIN, "null", "*", "http://127.0.0.1"])
def test_without_configured_origins_there_are_no_cors_headers(server: Server, origin: str) -> None:
    answers = [
        server.client.post("/predict", content=PNG, headers={"Content-Type": "image/png", "Origin": origin}),
        server.client.options("/predict", headers={"Origin": origin, **PREFLIGHT}),
        server.client.get("/no-such-path", headers={"Origin": origin}),
    ]
    assert [answer.status_code for answer in answers] == [200, 405, 404]
    for answer in answers:
        assert cors_headers(answer) == {}
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("method", "path", "content", "key", "status"),
    [
        pytest.param("POST", "/predict", PNG, ORDINARY, 200, id="an answer"),
        pytest.param("POST", "/predict", PNG, WRONG, 401, id="without a key"),
        pytest.param("POST", "/models/probe/reload", b"", ORDINARY, 403, id="forbidden"),
        pytest.param("POST", "/predict", b"no image", ORDINARY, 400, id="the client's mistake"),
        pytest.param("POST", "/predict", FAILING, ORDINARY, 500, id="the server's failure"),
        pytest.param("GET", "/no-such-path", b"", ORDINARY, 404, id="no route"),
    ],
)
def test_the_pages_of_a_configured_origin_may_read_every_answer(
    guarded: Server, method: str, path: str, content: bytes, key: str, status: int
) -> None:
    def ask(origin: str) -> httpx.Response:
        headers = {"Content-Type": "image/png", "Origin": origin, **bearer(key)}
        return guarded.client.request(method, path, content=content, headers=headers)

    answer = ask(ORIGIN)
    assert answer.status_code == status
    found = cors_headers(answer)
    assert found.pop("access-control-allow-origin") == ORIGIN
    exposed = set(found.pop("access-control-expose-headers").split(", "))
    assert exposed >= {"Retry-After", "X-Request-ID"}
    assert found == {}, "cookies and the like must not come along"
    assert "Origin" in answer.headers["vary"]
    assert "cross-origin-resource-policy" not in answer.headers
    assert "access-control-allow-origin" not in cors_headers(ask(FOREIGN))


def test_a_preflight_is_answered_without_a_key_for_configured_origins_only(guarded: Server) -> None:
    answer = guarded.client.options("/predict", headers={"Origin": ORIGIN, **PREFLIGHT})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == PREFLIGHT["Access-Control-Request-Headers"]
    for origin in (FOREIGN, "null", ORIGIN + ".evil.example", ORIGIN.upper(), ORIGIN.replace("https", "http")):
        answer = guarded.client.options("/predict", headers={"Origin": origin, **PREFLIGHT})
        assert answer.status_code == 400
        assert "access-control-allow-origin" not in answer.headers


def test_a_page_of_the_web_may_ask_a_server_in_its_readers_network_if_it_is_allowed(guarded: Server) -> None:
    private = {**PREFLIGHT, "Access-Control-Request-Private-Network": "true"}
    answer = guarded.client.options("/predict", headers={"Origin": ORIGIN, **private})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-private-network"] == "true"
    foreign = guarded.client.options("/predict", headers={"Origin": FOREIGN, **private})
    assert foreign.status_code == 400
    assert "access-control-allow-origin" not in foreign.headers


def test_pages_from_files_may_be_allowed(start_server: Callable[..., Server]) -> None:
    server = start_server("--cors-origins", "null")
    answer = server.client.options("/predict", headers={"Origin": "null", **PREFLIGHT})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "null")
    read = server.client.get("/models", headers={"Origin": "null"})
    assert read.headers["access-control-allow-origin"] == "null"
    assert server.client.options("/predict", headers={"Origin": ORIGIN, **PREFLIGHT}).status_code == 400
    assert server.client.post("/models/probe/reload", headers={"Origin": "null"}).status_code == 403


# Headers


@pytest.mark.parametrize(
    ("method", "path", "headers", "content", "status"),
    [
        pytest.param("GET", "/healthz", {}, b"", 200, id="health"),
        pytest.param("GET", "/metrics", {}, b"", 200, id="metrics"),
        pytest.param("GET", "/openapi.json", {}, b"", 200, id="document"),
        pytest.param("GET", "/v2/health/live", {}, b"", 200, id="an empty answer"),
        pytest.param("POST", "/predict", {}, PNG, 200, id="a prediction"),
        pytest.param("POST", "/predict", {"Accept": "image/png"}, PNG, 200, id="a picture"),
        pytest.param("POST", "/predict", {}, b"no image", 400, id="no image"),
        pytest.param("GET", "/no-such-path", {}, b"", 404, id="no route"),
        pytest.param("GET", "/predict", {}, b"", 405, id="a wrong method"),
        pytest.param("POST", "/predict", {}, bytes(300_000), 413, id="too large"),
        pytest.param("POST", "/predict", {"Content-Type": "text/plain"}, PNG, 415, id="a wrong type"),
        pytest.param("POST", "/predict?masks=x", {}, PNG, 422, id="a wrong parameter"),
        pytest.param("POST", "/predict", {}, FAILING, 500, id="a failure"),
    ],
)
def test_every_answer_has_the_security_headers_once(
    server: Server, method: str, path: str, headers: dict[str, str], content: bytes, status: int
) -> None:
    headers = {"Content-Type": "image/png", **headers}
    answer = server.client.request(method, path, headers=headers, content=content)
    assert answer.status_code == status
    for name, value in SECURITY.items():
        assert answer.headers.get_list(name) == [value], name
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert "server" not in answer.headers
    if path == "/predict" and status == 200:
        kind = "image/png" if headers.get("Accept") else "application/json"
        assert answer.headers["content-type"] == kind


@pytest.mark.parametrize("sent", [b"no HTTP at all\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x"], ids=["garbage", "slow"])
def test_answers_to_what_is_no_request_have_them_too(impatient: Server, sent: bytes) -> None:
    with impatient.connect() as connection:
        connection.sendall(sent)
        answer = answer_until_the_end(connection).decode()
    for name, value in SECURITY.items():
        assert answer.lower().count(f"\r\n{name}: {value}\r\n".lower()) == 1


# Slow clients
