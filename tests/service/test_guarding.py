"""What keeps the server safe from its clients, over real sockets: keys, CORS, headers, slow clients, hostile bodies."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from service.headers import SECURITY
from service.keys import OPEN
from tests.service.harness import ROOT, START_TIMEOUT, Server, encode, head, picture, until

KEYS = {
    "variable": "key-of-the-variable-0123",
    "file": "key-of-the-file-0123456",
    "admin variable": "key-of-the-admin-variable",
    "admin file": "key-of-the-admin-file-012",
}
ORDINARY, ADMIN = KEYS["variable"], KEYS["admin variable"]
WRONG = "no-key-of-this-server-0123"
ORIGIN, FOREIGN = "https://lab.example", "https://evil.example"
MAX_UPLOADS = 12
MAX_BODY = 2_000_000
PNG = encode(picture(1))
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


@pytest.fixture(scope="module")
def impatient(repository: Path) -> Iterator[Server]:
    """A server that gives clients little time and has one thread to decode."""
    flags = f"--header-timeout-ms 500 --upload-timeout-ms 2000 --max-uploads {MAX_UPLOADS} --max-body-bytes {MAX_BODY}"
    server = Server.start(repository, *flags.split(), "--decode-threads", "1", "--engine-threads", "1")
    yield server
    server.close()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def raw_status(server: Server, method: str, target: str, headers: dict[str, str]) -> int:
    """Of a request whose target is sent as it is."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        connection.request(method, target, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def answer_until_the_end(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def problem_type(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).removeprefix("urn:maskserve:problem:")


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
    return path.rsplit("/", 1)[1] in ("reload", "load", "unload")


def test_every_route_but_health_needs_a_key(guarded: Server) -> None:
    """And the page, which is not in the document."""
    tried = [*routes(guarded), ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/docs/oauth2-redirect")]
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
        client = httpx.Client(base_url=server.url.replace("0.0.0.0", "127.0.0.1"))
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

MULTIPART = 'Content-Type: multipart/form-data; boundary="b"'
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


def stalling_heads() -> Iterator[bytes]:
    """The begin of uploads of every kind, again and again."""
    while True:
        yield head("Content-Length: 1000") + PNG[:100]
        yield b"POST /predict HTTP/1.1\r\nHost: x\r\n" + MULTIPART.encode() + b"\r\nContent-Length: 1000\r\n\r\n" + PART
        yield b"POST /predict/batch HTTP/1.1\r\nHost: x\r\n" + MULTIPART.encode() + b"\r\nContent-Length: 1000\r\n\r\n"
        yield b'POST /v2/models/probe/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"inp\r\n'
        yield head("Content-Encoding: gzip", "Content-Length: 1000") + gzip.compress(PNG)[:50]


def stall(server: Server, count: int, stack: ExitStack) -> list[socket.socket]:
    """So many clients that begin an upload and send nothing more."""
    connections = []
    for beginning, _ in zip(stalling_heads(), range(count), strict=False):
        connections.append(stack.enter_context(server.connect()))
        connections[-1].sendall(beginning)
    until(lambda: server.metrics()["maskserve_uploads_in_flight"] == count)
    return connections


@pytest.mark.parametrize("sent", [b"", b"POST /pre", b"POST /predict HTTP/1.1\r\nHost: x\r\nX-A: b"])
def test_a_head_that_never_completes_gets_408_and_the_connection_ends(impatient: Server, sent: bytes) -> None:
    with impatient.connect() as connection:
        connection.sendall(sent)
        answer = answer_until_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"slow-headers" in answer


def test_a_body_that_never_completes_gets_408(impatient: Server) -> None:
    with ExitStack() as stack:
        for connection in stall(impatient, 5, stack):
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.status == 408
            assert b"slow-upload" in response.read()
    until(lambda: impatient.metrics()["maskserve_uploads_in_flight"] == 0)


def test_clients_that_stall_hold_up_nobody_and_those_beyond_the_limit_are_refused(impatient: Server) -> None:
    with ExitStack() as stack:
        stall(impatient, MAX_UPLOADS - 1, stack)
        assert impatient.predict(PNG).status_code == 200
        assert impatient.client.post("/predict", files={"file": PNG}).status_code == 200
        assert impatient.client.post("/predict/batch", files=[("file", PNG), ("file", PNG)]).status_code == 200
        last = stack.enter_context(impatient.connect())
        last.sendall(head("Content-Length: 1000"))
        until(lambda: impatient.metrics()["maskserve_uploads_in_flight"] == MAX_UPLOADS)
        answer = impatient.predict(PNG)
        assert (answer.status_code, problem_type(answer)) == (429, "too-many-uploads")
        assert int(answer.headers["retry-after"]) >= 1
        assert impatient.client.get("/readyz").status_code == 200
    until(lambda: impatient.metrics()["maskserve_uploads_in_flight"] == 0)
    assert impatient.predict(PNG).status_code == 200


# Packed bodies


def peak_memory(server: Server) -> int:
    """The most bytes that the process ever had resident."""
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("there is no /proc here to look into another process")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert peak is not None
    return int(peak[1]) * 1024


BOMB_MEMBER = gzip.compress(bytes(100_000_000), 9)


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(BOMB_MEMBER, id="100 MB"),
        pytest.param(BOMB_MEMBER * 15, id="1.5 GB in members"),
        pytest.param(gzip.compress(PNG) + BOMB_MEMBER, id="behind an image"),
    ],
)
@pytest.mark.parametrize("multipart", [False, True], ids=["raw", "multipart"])
def test_a_bomb_is_refused_before_it_takes_memory(impatient: Server, bomb: bytes, multipart: bool) -> None:
    assert len(bomb) < MAX_BODY
    kind = MULTIPART.removeprefix("Content-Type: ") if multipart else "image/png"
    headers = {"Content-Type": kind, "Content-Encoding": "gzip"}
    content = gzip.compress(PART) + bomb if multipart else bomb
    impatient.predict(PNG)
    before = peak_memory(impatient)
    answer = impatient.client.post("/predict", content=content, headers=headers)
    assert (answer.status_code, problem_type(answer)) == (413, "too-many-bytes")
    assert peak_memory(impatient) - before < 10 * MAX_BODY


def multipart_body() -> bytes:
    return PART + PNG + b"\r\n--b--\r\n"


def infer_body() -> bytes:
    image = base64.b64encode(PNG).decode()
    return json.dumps({"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [image]}]}).encode()


BODIES: dict[str, tuple[str, str, bytes]] = {
    "raw": ("/predict", "image/png", PNG),
    "multipart": ("/predict", "multipart/form-data; boundary=b", multipart_body()),
    "batch": ("/predict/batch", "multipart/form-data; boundary=b", multipart_body()),
    "infer": ("/v2/models/probe/infer", "application/json", infer_body()),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    ("encoding", "cut", "status", "problem"),
    [
        pytest.param("gzip", None, 200, None, id="gzip"),
        pytest.param("GZip", None, 200, None, id="in another case"),
        pytest.param("gzip", -9, 400, "bad-content-encoding", id="truncated"),
        pytest.param("gzip", 0, 400, "bad-content-encoding", id="nothing at all"),
        pytest.param("br", None, 415, "unsupported-content-encoding", id="unknown"),
        pytest.param("gzip, gzip", None, 415, "unsupported-content-encoding", id="twice"),
    ],
)
def test_packed_bodies(
    server: Server, body: str, encoding: str, cut: int | None, status: int, problem: str | None
) -> None:
    path, kind, content = BODIES[body]
    headers = {"Content-Type": kind, "Content-Encoding": encoding}
    answer = server.client.post(path, content=gzip.compress(content)[:cut], headers=headers)
    assert answer.status_code == status, answer.text
    if problem is not None:
        assert problem_type(answer) == problem
    else:
        plain = server.client.post(path, content=content, headers={"Content-Type": kind}).json()
        assert untimed(answer.json()) == untimed(plain)


def untimed(answer: Any) -> Any:
    """Without the times, which differ."""
    if isinstance(answer, list):
        return [untimed(item) for item in answer]
    if isinstance(answer, dict):
        return {name: untimed(value) for name, value in answer.items() if name != "timing_ms"}
    return answer


# Formats that nobody asked for

ALLOWED_PLUGINS = {f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "Tiff", "WebP")}
FORMATS = ("ICO", "PPM", "EPS", "TGA", "PCX", "SGI", "ICNS", "DDS", "JPEG2000", "PDF", "MSP", "SPIDER", "XBM")


def file_of(format: str) -> bytes:
    """A real file of that format, as Pillow writes it."""
    mode = {"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(format, "RGB")
    buffer = BytesIO()
    Image.new(mode, (64, 64), 1 if mode == "1" else None).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_a_format_that_is_not_allowed_is_refused(server: Server, format: str) -> None:
    answer = server.predict(file_of(format), "image/*")
    assert (answer.status_code, problem_type(answer)) in ((400, "not-an-image"), (415, "unsupported-image-format"))
    answer = server.client.post("/predict", files={"file": ("a.png", file_of(format))})
    assert answer.status_code in (400, 415)


def test_their_parsers_are_never_even_imported(tmp_path: Path) -> None:
    for format in FORMATS:
        (tmp_path / format).write_bytes(file_of(format))
    (tmp_path / "JPEG").write_bytes(encode(picture(), "JPEG"))
    program = (
        "import sys; from pathlib import Path\n"
        "import service.app, service.pipeline\n"
        "from model.runtime.images import ImageError, decode_image\n"
        "refused = 0\n"
        "for file in Path(sys.argv[1]).iterdir():\n"
        "    try: decode_image(file.read_bytes())\n"
        "    except ImageError: refused += 1\n"
        "print(refused, *sorted(m for m in sys.modules if m.startswith('PIL.') and m.endswith('ImagePlugin')))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=START_TIMEOUT)
    refused, *plugins = done.stdout.split()
    assert int(refused) == len(FORMATS), done.stderr
    assert set(plugins) == ALLOWED_PLUGINS


def test_a_url_in_place_of_a_file_is_never_fetched(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bait:
        url = f"http://127.0.0.1:{bait.getsockname()[1]}/image.png"
        svg = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>'
        tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [1]}
        encoded = base64.b64encode(url.encode()).decode()
        answers = [
            server.predict(url.encode()),
            server.predict(url.encode(), "image/url"),
            server.predict(url.encode(), "text/uri-list"),
            server.predict(svg.encode(), "image/svg+xml"),
            server.predict(b"", url=url),
            server.client.post("/predict", files={"file": ("a.png", url.encode(), "text/plain")}),
            server.client.post("/predict", files={"file": (url, b"", "image/png")}),
            server.client.post("/predict", files={"url": (None, url)}),
            server.client.post("/predict", data={"file": url}),
            server.client.post("/predict", json={"url": url, "file": url}),
            server.client.post("/v2/models/probe/infer", json={"inputs": [{**tensor, "data": [url]}]}),
            server.client.post("/v2/models/probe/infer", json={"inputs": [{**tensor, "data": [encoded]}]}),
        ]
        assert all(400 <= answer.status_code < 500 for answer in answers), [one.status_code for one in answers]
        bait.settimeout(0.2)
        with pytest.raises(TimeoutError):
            bait.accept()
