"""Requests that offer another protocol (RFC 9110, 7.8) are answered as if they had offered nothing."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from tests.patience import PATIENCE
from tests.service.harness import Server, encode, picture
from tests.service.http.connections import GET, Recorder, connect, read_answer, serving

SETTINGS = b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + SETTINGS
"""As Java's HttpClient and `curl --http2` send it."""
OFFERS = {
    "h2c": H2C,
    "HTTP2-Settings named first": b"Connection: HTTP2-Settings, upgrade\r\nUPGRADE: h2c\r\n" + SETTINGS,
    "Connection in two lines": b"Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
    "several protocols": b"Connection: Upgrade\r\nUpgrade: h2c, IRC/6.9\r\nUpgrade: foo/2\r\n",
    "WebSocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "TLS": b"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
    "without Upgrade": b"Connection: Upgrade\r\n",
    "without Connection": b"Upgrade: h2c\r\n",
}
BODY = GET.replace(b"/", b"/smuggled", 1)
"""That must never be taken for a request."""
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
IN_CHUNKS = b"5\r\n" + BODY[:5] + b"\r\n%x\r\n" % (len(BODY) - 5) + BODY[5:] + b"\r\n0\r\n\r\n"


def post(headers: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST /post?a=b HTTP/" + version + b"\r\nHost: x\r\nX-Name: value\r\n" + headers + b"\r\n" + body


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize(
    ("headers", "body"),
    [pytest.param(LENGTH, BODY, id="length"), pytest.param(CHUNKED, IN_CHUNKS, id="chunked")],
)
@pytest.mark.parametrize("at_once", [True, False], ids=["in one packet", "byte by byte"])
def test_a_body_comes_through_and_the_connection_stays(
    offer: bytes, headers: bytes, body: bytes, at_once: bool
) -> None:
    app = Recorder()
    request = post(offer + headers, body)
    with serving(app) as address, connect(address) as connection:
        for _ in range(2):
            for start in range(0, len(request), len(request) if at_once else 1):
                connection.sendall(request[start : start + (len(request) if at_once else 1)])
            answer = read_answer(connection)
            assert (answer.status, answer.body) == (200, b"%d" % len(BODY))
            assert answer.headers["connection"] is None
        connection.sendall(GET)
        assert read_answer(connection).status == 200
    assert app.paths == ["/post", "/post", "/"]


def test_a_client_that_waits_for_100_is_told_to_go_on() -> None:
    with serving(Recorder()) as address, connect(address) as connection:
        connection.sendall(post(H2C + LENGTH + b"Expect: 100-continue\r\n"))
        assert connection.recv(64) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert read_answer(connection).body == b"%d" % len(BODY)


def test_a_request_of_http_1_0_ends_its_connection_as_ever() -> None:
    with serving(Recorder()) as address, connect(address) as connection:
        connection.sendall(post(H2C + LENGTH, BODY, version=b"1.0"))
        answer = read_answer(connection)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert connection.recv(1) == b""


def test_requests_in_one_packet_are_all_answered_whatever_they_offer() -> None:
    app = Recorder()
    with serving(app) as address, connect(address) as connection:
        connection.sendall(GET + 500 * post(H2C) + post(H2C + LENGTH, BODY) + GET)
        assert [read_answer(connection).status for _ in range(503)] == 503 * [200]
    assert app.paths == ["/", *501 * ["/post"], "/"]


@dataclass
class Headers:
    """Keeps what the application sees of a request."""

    scopes: list[Scope] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await Recorder()(scope, receive, send)


def test_the_application_sees_the_request_without_the_offer() -> None:
    app = Headers()
    with serving(app) as address, connect(address) as connection:
        for offer in (H2C, b""):
            connection.sendall(post(offer + LENGTH, BODY))
            read_answer(connection)
    offered, plain = app.scopes
    assert (offered["method"], offered["path"], offered["query_string"]) == ("POST", "/post", b"a=b")
    extra = [b"connection", b"http2-settings"]
    assert [header for header in offered["headers"] if header[0] not in extra] == plain["headers"]


def test_a_tunnel_is_refused_and_what_follows_is_not_read() -> None:
    app = Recorder()
    with serving(app) as address, connect(address) as connection:
        connection.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n" + GET)
        assert read_answer(connection).status == 400
        assert connection.recv(1) == b""
    assert app.paths == []


CLIENT = """
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;

public class Client {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();  // which offers HTTP/2
        for (int time = 0; time < 2; time++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("Content-Type", "image/png")
                .expectContinue(time == 1)
                .POST(HttpRequest.BodyPublishers.ofFile(Path.of(arguments[1])))
                .build();
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
        }
    }
}
"""


def test_javas_client_gets_its_answers(server: Server, tmp_path: Path) -> None:
    java = shutil.which("java")
    if java is None or shutil.which("javac") is None:
        pytest.skip("needs a JDK: java and javac are not on the PATH")
    (tmp_path / "Client.java").write_text(CLIENT, "utf-8")
    (tmp_path / "image.png").write_bytes(encode(picture()))
    command = [java, tmp_path / "Client.java", f"{server.url}/predict", tmp_path / "image.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("200\n200\n", "")
