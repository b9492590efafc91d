"""API keys: which requests need one, which key is enough, and that nothing tells one."""

from __future__ import annotations

import http.client
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request

from service.http.keys import Access, Keys, RequireKey, is_administration, read_keys
from service.http.problems import ADMINISTRATION_OFF, FORBIDDEN, MEDIA_TYPE, UNAUTHORIZED, ProblemKind
from service.http.proxies import BehindProxy
from tests.patience import PATIENCE
from tests.service.http.connections import connect, read_answer, serving

API = "ordinary-key-0123456789"
ADMIN = "admin-key-0123456789"
WRONG = "wrong-key-0123456789"
ORIGIN = {"Origin": "https://example.org"}


def application() -> FastAPI:
    """The service's routes as far as keys tell them apart; each answers with its name."""
    app = FastAPI()
    routes = {
        "healthz": ("GET", "/healthz"),
        "readyz": ("GET", "/readyz"),
        "live": ("GET", "/v2/health/live"),
        "ready": ("GET", "/v2/health/ready"),
        "metrics": ("GET", "/metrics"),
        "models": ("GET", "/models"),
        "predict": ("POST", "/predict"),
        "infer": ("POST", "/v2/models/{name}/infer"),
        "index": ("POST", "/v2/repository/index"),
        "reload": ("POST", "/models/{name}/reload"),
        "load": ("POST", "/v2/repository/models/{name}/load"),
        "unload": ("POST", "/v2/repository/models/{name}/unload"),
    }
    for name, (method, path) in routes.items():

        async def endpoint(request: Request, route: str = name) -> str:
            await request.body()
            return route

        app.add_api_route(path, endpoint, methods=[method], name=name)
    return app


@contextmanager
def guarded(api: tuple[str, ...] = (), admin: tuple[str, ...] = (), local: bool = True) -> Iterator[httpx.Client]:
    app = application()
    app.add_middleware(RequireKey, keys=Keys(api, admin, local=local))
    with (
        serving(app) as (host, port),
        httpx.Client(base_url=f"http://{host}:{port}", timeout=PATIENCE, trust_env=False, verify=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """Of a server with keys of both kinds."""
    with guarded((API, "other-ordinary-key-0123"), ("other-admin-key-0123", ADMIN)) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def assert_problem(answer: httpx.Response, kind: ProblemKind) -> None:
    assert answer.status_code == kind.status
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.json()["type"] == kind.type
    assert answer.headers.get("www-authenticate") == ("Bearer" if kind is UNAUTHORIZED else None)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"])
def test_health_needs_no_key(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200
    assert client.head(path).status_code == 405  # from the router: it got there


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/models"),
        ("GET", "/metrics"),
        ("POST", "/predict"),
        ("POST", "/healthz"),
        ("GET", "/healthz/"),
        ("GET", "/healthz/../models"),
        ("GET", "/HEALTHZ"),
        ("OPTIONS", "/predict"),
        ("GET", "/no-such-path"),
        ("POST", "/models/nuclei/reload"),
    ],
)
def test_everything_else_needs_one(client: httpx.Client, method: str, path: str) -> None:
    assert_problem(client.request(method, path), UNAUTHORIZED)


def test_a_preflight_needs_none(client: httpx.Client) -> None:
    answer = client.options("/predict", headers={**ORIGIN, "Access-Control-Request-Method": "POST"})
    assert answer.status_code == 405  # from the router: there is no CORS middleware here
    answer = client.post("/predict", headers={**ORIGIN, "Access-Control-Request-Method": "POST"})
    assert_problem(answer, UNAUTHORIZED)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(bearer(API), id="bearer"),
        pytest.param({"Authorization": f"bearer  {API}"}, id="scheme in lower case, two spaces"),
        pytest.param({"X-API-Key": API}, id="x-api-key"),
        pytest.param({"Authorization": "Basic dXNlcjpwYXNz", "X-API-Key": API}, id="authorization is a proxy's"),
        pytest.param(bearer("other-ordinary-key-0123"), id="another of the keys"),
        pytest.param(bearer(ADMIN), id="an administration key"),
    ],
)
def test_a_right_key_lets_predict(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.post("/predict", headers=headers, content=b"image")
    assert (answer.status_code, answer.json()) == (200, "predict")
    assert client.post("/v2/repository/index", headers=headers).json() == "index"
    assert client.post("/v2/models/reload/infer", headers=headers).json() == "infer"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param(bearer(WRONG), id="wrong"),
        pytest.param(bearer(API.upper()), id="in the wrong case"),
        pytest.param(bearer(API[:-1]), id="a prefix"),
        pytest.param(bearer(API + "0"), id="longer"),
        pytest.param({"Authorization": "Bearer"}, id="empty"),
        pytest.param({"X-API-Key": ""}, id="empty x-api-key"),
        pytest.param({"Authorization": API}, id="without scheme"),
        pytest.param({"Authorization": f"Basic {API}"}, id="another scheme"),
        pytest.param({"X-API-Key": "k\u00e9y-0123456789abcdef"}, id="not ASCII"),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/models/nuclei/reload"])
def test_no_key_and_a_wrong_one_are_refused(client: httpx.Client, path: str, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    assert_problem(client.post(path, headers=raw), UNAUTHORIZED)


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/models/nuclei/reload", "reload"),
        ("/v2/repository/models/nuclei/load", "load"),
        ("/v2/repository/models/nuclei/unload", "unload"),
    ],
)
def test_administration_needs_an_administration_key(client: httpx.Client, path: str, route: str) -> None:
    assert_problem(client.post(path, headers=bearer(API)), FORBIDDEN)
    assert_problem(client.post(path, headers=bearer(WRONG)), UNAUTHORIZED)
    assert client.post(path, headers=bearer(ADMIN)).json() == route


@pytest.mark.parametrize(
    "target",
    [
        "/models/nuclei/reload/",
        "/models//nuclei/reload",
        "//models/nuclei/reload",
        "/models%2Fnuclei%2Freload",
        "/%6dodels/nuclei/%72eload",
        "/models/a%0Ab/reload",
        "/models/nuclei/reload%0A",
        "/models/../reload",
        "/models/nuclei/reload?x=/predict",
        "/MODELS/nuclei/RELOAD",
        "http://x/models/nuclei/reload",
        "/v2/repository/models/nuclei/load/",
        "/v2/repository//models/nuclei/unload",
        "/v2/repository/models%2fnuclei%2Funload",
        "/v2/repository/models/nuclei/load%0a",
    ],
)
def test_no_spelling_of_a_path_gets_round_it(client: httpx.Client, target: str) -> None:
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 0, timeout=PATIENCE)
    connection.request("POST", target, headers=bearer(API))
    answer = connection.getresponse()
    assert answer.status == 403, answer.read()
    connection.close()


@pytest.mark.parametrize("base", ["", "/base"], ids=["cut off", "left"])
def test_a_path_below_a_prefix_is_judged_as_the_router_does(base: str) -> None:
    app = application()
    app.add_middleware(RequireKey, keys=Keys([API], [ADMIN]))
    app.add_middleware(BehindProxy, trusted=(), root_path="/base", own=())
    with (
        serving(app) as (host, port),
        httpx.Client(base_url=f"http://{host}:{port}", timeout=PATIENCE, trust_env=False, verify=False) as client,
    ):
        assert_problem(client.post(f"{base}/models/nuclei/reload", headers=bearer(API)), FORBIDDEN)
        assert client.post(f"{base}/models/nuclei/reload", headers=bearer(ADMIN)).json() == "reload"
        assert client.get(f"{base}/healthz").status_code == 200


def test_without_keys_everything_is_open() -> None:
    with guarded() as client:
        assert client.post("/predict").json() == "predict"
        assert client.post("/models/nuclei/reload").json() == "reload"


def test_without_administration_keys_administration_is_off() -> None:
    with guarded(api=(API,)) as client:
        answer = client.post("/models/nuclei/reload", headers=bearer(API))
        assert_problem(answer, ADMINISTRATION_OFF)
        assert "MASKSERVE_ADMIN_KEYS" in answer.json()["detail"]
        assert client.post("/predict", headers=bearer(API)).json() == "predict"


def test_without_any_key_administration_is_open_on_this_machine_only() -> None:
    for local, status in ((True, 200), (False, 403)):
        with guarded(local=local) as client:
            answer = client.post("/models/cells/reload")
            assert answer.status_code == status
            assert client.post("/predict").status_code == 200
    assert_problem(answer, ADMINISTRATION_OFF)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        pytest.param("https://example.org", 403, id="another site"),
        pytest.param("null", 403, id="a page without an origin"),
        pytest.param("http://127.0.0.1:1", 403, id="another port"),
        pytest.param(None, 200, id="no browser"),
        pytest.param("own", 200, id="the server's own page"),
    ],
)
def test_a_page_of_another_site_cannot_administer_a_server_without_keys(origin: str | None, status: int) -> None:
    with guarded() as client:
        own = str(client.base_url).rstrip("/")
        headers = {} if origin is None else {"Origin": own if origin == "own" else origin}
        assert client.post("/models/cells/reload", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        pytest.param("evil.example", 403, id="a name that its owner points at this machine"),
        pytest.param("127.0.0.1.evil.example", 403, id="a name that looks like an address"),
        pytest.param("localhost.evil.example", 403, id="a name that begins like this machine"),
        pytest.param("localhost", 200, id="this machine"),
        pytest.param("maskserve.localhost", 200, id="a name of this machine"),
        pytest.param("[::1]", 200, id="an address"),
    ],
)
def test_nor_can_a_page_whose_name_points_here(host: str, status: int) -> None:
    with guarded() as client:
        headers = {"Host": f"{host}:8000", "Origin": f"http://{host}:8000"}
        assert client.post("/models/cells/reload", headers=headers).status_code == status


def test_with_administration_keys_only_the_rest_is_open() -> None:
    with guarded(admin=(ADMIN,)) as client:
        assert client.post("/predict").json() == "predict"
        assert_problem(client.post("/models/nuclei/reload"), UNAUTHORIZED)
        assert client.post("/models/nuclei/reload", headers=bearer(ADMIN)).json() == "reload"


def test_the_refusal_does_not_wait_for_the_body(client: httpx.Client) -> None:
    with connect((client.base_url.host, client.base_url.port or 0)) as connection:
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head)
        assert read_answer(connection).status == 401


def test_no_key_is_ever_shown(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys([API], [ADMIN])
    with caplog.at_level(logging.DEBUG):
        answers = [client.post(path, headers=bearer(WRONG)) for path in ("/predict", "/models/nuclei/reload")]
        answers.append(client.post("/models/nuclei/reload", headers=bearer(API)))
    shown = "".join([repr(keys), repr(vars(keys)), *(answer.text for answer in answers), caplog.text])
    assert not any(key in shown for key in (API, ADMIN, WRONG))


@pytest.mark.parametrize(
    ("presented", "access"),
    [
        pytest.param([], Access.NONE, id="none"),
        pytest.param([WRONG], Access.NONE, id="wrong"),
        pytest.param([API], Access.ORDINARY, id="ordinary"),
        pytest.param([WRONG, API], Access.ORDINARY, id="one of two"),
        pytest.param([ADMIN, API], Access.ADMINISTRATION, id="the better of two"),
        pytest.param(["both-0123456789abc"], Access.ADMINISTRATION, id="configured as both"),
    ],
)
def test_a_request_gets_the_most_that_its_keys_allow(presented: list[str], access: Access) -> None:
    keys = Keys([API, "both-0123456789abc"], ["both-0123456789abc", ADMIN])
    assert keys.access(presented) is access


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/models/nuclei/reload", True),
        ("PUT", "/models/nuclei/reload", True),
        ("post", "/models/nuclei/reload", True),
        ("POST", "/models/nuclei/", True),
        ("POST", "/Models//nuclei", True),
        ("GET", "/models/nuclei", False),
        ("HEAD", "/models/nuclei/reload", False),
        ("POST", "/models", False),
        ("POST", "/v2/repository/models/nuclei/load", True),
        ("POST", "/v2/repository/other/models/nuclei/load", True),
        ("POST", "/V2/Repository/models/nuclei/UNLOAD/", True),
        ("POST", "/v2/repository/index", False),
        ("POST", "/v2/repository/index/", True),
        ("POST", "/v2/repository/index\n", True),
        ("GET", "/v2/repository/index", False),
        ("POST", "/v2/models/nuclei/infer", False),
        ("POST", "/v2/models/repository/infer", False),
        ("POST", "/v2/models/nuclei/versions/1/infer", False),
        ("POST", "/predict", False),
        ("POST", "/predict/batch", False),
        ("POST", "/", False),
        ("POST", "", False),
    ],
)
def test_administration_is_told_from_method_and_path(method: str, path: str, expected: bool) -> None:
    assert is_administration(method, path) is expected


def test_a_key_file_may_have_comments_and_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(f"# who: the lab\r\n{API}\r\n\n   \n  {ADMIN}  \n# the end".encode())
    assert read_keys(file) == (API, ADMIN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(f"{API}\ntiny-key\n", "line 2.*shorter than 16", id="short"),
        pytest.param(f"\n{API} {WRONG}\n", "line 2.*whitespace", id="two in a line"),
        pytest.param(f"{API} # the lab's\n", "line 1.*whitespace", id="comment behind a key"),
        pytest.param("schl\u00fcssel-0123456789\n", "line 1.*ASCII", id="not ASCII"),
        pytest.param(f"{API}\x00\n", "line 1.*ASCII", id="not printable"),
        pytest.param("# none\n\n", "no key in it", id="no key"),
    ],
)
def test_a_bad_key_file_is_told_by_line_and_without_the_key(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        read_keys(file)
    assert str(file) in str(caught.value)
    assert not any(word in str(caught.value) for word in content.split() if len(word) > 6)
