"""What clients of bad will cannot do, over real sockets: stall, swell, send other formats, have URLs fetched."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.patience import PATIENCE
from tests.service.harness import ROOT, Server, encode, head, picture, until
from tests.service.http.impatience import MAX_BODY, MAX_UPLOADS, PNG, answer_until_the_end, problem_type

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


@pytest.mark.parametrize("sent", [b"\r\n", b"POST /pre", b"POST /predict HTTP/1.1\r\nHost: x\r\nX-A: b"])
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


@cache
def member() -> bytes:
    """100 MB, packed when it is asked for: every process that runs tests collects these."""
    return gzip.compress(bytes(100_000_000), 9)


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(member, id="100 MB"),
        pytest.param(lambda: member() * 15, id="1.5 GB in members"),
        pytest.param(lambda: gzip.compress(PNG) + member(), id="behind an image"),
    ],
)
@pytest.mark.parametrize("multipart", [False, True], ids=["raw", "multipart"])
def test_a_bomb_is_refused_before_it_takes_memory(
    impatient: Server, packed: Callable[[], bytes], multipart: bool
) -> None:
    bomb = packed()
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
FORMATS = ("ICO", "PPM", "EPS", "TGA", "PCX", "SGI", "ICNS", "DDS", "PDF", "MSP", "SPIDER", "XBM")


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
        "import service.app, service.prediction.pipeline\n"
        "from model.runtime.images.decode import decode_image\n"
        "from model.runtime.images.errors import ImageError\n"
        "refused = 0\n"
        "for file in Path(sys.argv[1]).iterdir():\n"
        "    try: decode_image(file.read_bytes())\n"
        "    except ImageError: refused += 1\n"
        "print(refused, *sorted(m for m in sys.modules if m.startswith('PIL.') and m.endswith('ImagePlugin')))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
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
