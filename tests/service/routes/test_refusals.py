"""What a bad request is answered with, and that the server goes on."""

from __future__ import annotations

import gzip
import pickle
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import tifffile

from tests.planted import Planted
from tests.service.harness import LABELS, Server, encode, head, picture, until


def problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    value: dict[str, Any] = response.json()
    assert value["type"] == (f"urn:maskserve:problem:{slug}" if slug else "about:blank")
    assert value["status"] == status
    assert value["title"]
    assert value["detail"]
    assert "Traceback" not in response.text
    return value


@pytest.fixture(autouse=True)
def goes_on(server: Server) -> Iterator[None]:
    """After every refusal the server answers the next good request."""
    yield
    assert server.process.poll() is None
    assert server.predict(encode(picture())).status_code == 200
    assert server.metrics()["maskserve_requests_in_flight"] == 0


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and has no pixels: its data begin and then the file ends."""
    fields = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + fields
    begin = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(fields)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return begin + struct.pack(">I", 1000) + b"IDAT"


PNG, JPEG = encode(picture()), encode(picture(), "JPEG")

UPLOADS = [
    pytest.param(b"", 400, "not-an-image", id="empty"),
    pytest.param(b"hello, I am text" * 10, 400, "not-an-image", id="text"),
    pytest.param(bytes(1000), 400, "not-an-image", id="zeros"),
    pytest.param(PNG[:8], 400, "damaged-image", id="a signature and nothing more"),
    pytest.param(PNG[: len(PNG) // 2], 400, "damaged-image", id="truncated PNG"),
    pytest.param(JPEG[: len(JPEG) // 2], 400, "damaged-image", id="truncated JPEG"),
    pytest.param(JPEG[:30] + bytes(200), 400, "damaged-image", id="JPEG whose rest is zeros"),
    pytest.param(PNG[:60] + bytes(50) + PNG[110:], 400, "damaged-image", id="PNG with zeros in its data"),
    pytest.param(png_header(50_000, 50_000), 413, "too-many-pixels", id="a header with too many pixels"),
    pytest.param(png_header(1_000_001, 1), 413, "too-many-pixels", id="one pixel too many"),
    pytest.param(png_header(1000, 1000), 400, "damaged-image", id="as many as allowed, but no pixels"),
    pytest.param(PNG + bytes(200_001 - len(PNG)), 413, "too-many-bytes", id="one byte too many"),
    pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported-image-format", id="SVG"),
    pytest.param(b"P6 1 1 255\n...", 415, "unsupported-image-format", id="PPM, which Pillow could read"),
    pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", 415, "unsupported-image-format", id="EPS, which Pillow could run"),
]


def test_nothing_in_an_upload_is_unpickled(server: Server, tmp_path: Path) -> None:
    """Nor as part of a file that is otherwise fine: what it says of itself is text."""
    planted = np.array([Planted(tmp_path / "ran")], object)
    array, archive = BytesIO(), BytesIO()
    np.save(array, planted, allow_pickle=True)
    np.savez(archive, planted=planted)
    code = pickle.dumps(planted[0], 0)
    for upload in (code, array.getvalue(), archive.getvalue()):
        problem(server.predict(upload), 400, "not-an-image")
    for description in (
        code.decode(),
        f"shaped: {code.decode()}",
        "ImageJ=1.0\nimages=1\ninfo=__import__('os').abort()\n",
    ):
        tiff = BytesIO()
        tifffile.imwrite(tiff, picture(), photometric="rgb", description=description, metadata=None)
        assert server.predict(tiff.getvalue()).status_code == 200
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("multipart", [False, True], ids=["raw", "multipart"])
@pytest.mark.parametrize(("data", "status", "slug"), UPLOADS)
def test_bad_uploads(server: Server, data: bytes, status: int, slug: str, multipart: bool) -> None:
    if multipart:
        problem(server.client.post("/predict", files={"file": ("a.png", data)}), status, slug)
    else:
        problem(server.predict(data), status, slug)


def test_as_many_bytes_as_allowed_are_read(server: Server) -> None:
    assert server.predict(PNG + bytes(200_000 - len(PNG))).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "body", "status", "slug"),
    [
        pytest.param("application/json", b"{}", 415, "unsupported-content-type", id="JSON"),
        pytest.param(
            "application/x-www-form-urlencoded", PNG, 415, "unsupported-content-type", id="curl --data-binary"
        ),
        pytest.param("imaginary/png", PNG, 415, "unsupported-content-type", id="almost image/"),
        pytest.param("multipart/mixed; boundary=x", b"--x--", 415, "unsupported-content-type", id="other multipart"),
        pytest.param("multipart/form-data", b"--x--", 400, "bad-multipart", id="no boundary"),
        pytest.param("multipart/form-data; boundary=x", PNG, 400, "bad-multipart", id="an image, not multipart"),
        pytest.param("multipart/form-data; boundary=x", b"", 400, "bad-multipart", id="empty multipart"),
    ],
)
def test_bad_content_types(server: Server, content_type: str, body: bytes, status: int, slug: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    problem(server.client.post("/predict", content=body, headers=headers), status, slug)


@pytest.mark.parametrize(
    ("content_type", "advice"),
    [
        ("application/json", "POST /v2/models/NAME/infer"),
        ("application/json; charset=utf-8", "POST /v2/models/NAME/infer"),
        ("application/x-www-form-urlencoded", "POST /v2/models/NAME/infer"),
        ("application/x-www-form-urlencoded", "-F file=@FILE"),
        ("application/x-www-form-urlencoded", "-H 'Content-Type: image/png'"),
        ("text/plain", "application/octet-stream"),
        ("text/plain;charset=UTF-8", "POST /v2/models/NAME/infer"),
        ("application/vnd.api+json", "POST /v2/models/NAME/infer"),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_wrong_content_type_is_told_where_to_go(server: Server, path: str, content_type: str, advice: str) -> None:
    body = orjson.dumps({"image": b64encode(PNG).decode()})
    answer = server.client.post(path, content=body, headers={"Content-Type": content_type})
    assert advice in problem(answer, 415, "unsupported-content-type")["detail"]


@pytest.mark.parametrize("kind", ["", "application/octet-stream", "image/png", "part"])
def test_base64_in_place_of_an_image_is_told_where_to_go(server: Server, kind: str) -> None:
    body = orjson.dumps({"image": b64encode(PNG).decode()})
    if kind == "part":
        answer = server.client.post("/predict", files={"file": ("a.png", body)})
    else:
        answer = server.client.post("/predict", content=body, headers={"Content-Type": kind} if kind else {})
    assert "POST /v2/models/NAME/infer" in problem(answer, 400, "not-an-image")["detail"]


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_a_batch_that_is_too_large_is_told_to_be_fewer_images(server: Server, encoding: str) -> None:
    files = [("file", (f"{number}.png", PNG + bytes(90_000))) for number in range(3)]
    request = server.client.build_request("POST", "/predict/batch", files=files)
    body = gzip.compress(request.read()) if encoding else request.read()
    headers = {"Content-Type": request.headers["Content-Type"], "Content-Encoding": encoding or "identity"}
    found = problem(server.client.post("/predict/batch", content=body, headers=headers), 413, "too-many-bytes")
    assert "fewer images" in found["detail"]
    alone = problem(server.predict(PNG + bytes(200_001)), 413, "too-many-bytes")
    assert "fewer images" not in alone["detail"]


def test_the_field_must_be_named_file(server: Server) -> None:
    found = problem(server.client.post("/predict", files={"image": ("a.png", PNG)}), 400, "bad-multipart")
    assert "'image'" in found["detail"]
    problem(server.client.post("/predict", files=[("file", ("a", PNG)), ("file", ("b", PNG))]), 400, "bad-multipart")
    problem(server.client.post("/predict", files={"file": PNG}, data={"masks": "none"}), 400, "bad-multipart")


def test_a_chunked_body_is_cut_off_at_the_limit(server: Server) -> None:
    """No Content-Length warns of it, and the client never ends it."""
    with server.connect() as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        for _ in range(5):
            connection.sendall(b"c350\r\n" + bytes(50_000) + b"\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"too-many-bytes" in answer


def test_a_declared_length_is_refused_before_the_body_arrives(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(head("Content-Length: 99999999"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        pytest.param({"score_threshold": 1.5}, "score_threshold", id="threshold too high"),
        pytest.param({"score_threshold": -0.1}, "score_threshold", id="threshold too low"),
        pytest.param({"score_threshold": "nan"}, "score_threshold", id="threshold not a number"),
        pytest.param({"score_threshold": "high"}, "score_threshold", id="threshold a word"),
        pytest.param({"max_detections": 0}, "max_detections", id="no detections"),
        pytest.param({"max_detections": 1.5}, "max_detections", id="half a detection"),
        pytest.param({"max_detections": 10**30}, "max_detections", id="absurdly many"),
        pytest.param({"masks": "png"}, "masks", id="unknown mask format"),
        pytest.param({"version": 0}, "version", id="no version 0"),
        pytest.param({"threshold": 0.5}, "threshold", id="unknown parameter"),
        pytest.param({"labels": "nose"}, "labels", id="unknown label"),
        pytest.param({"labels": "circle,nose"}, "labels", id="a known and an unknown label"),
        pytest.param({"labels": ""}, "labels", id="an empty label"),
    ],
)
def test_bad_parameters(server: Server, parameters: dict[str, Any], named: str) -> None:
    assert named in problem(server.predict(PNG, **parameters), 422, "invalid-parameter")["detail"]


def test_an_unknown_label_is_answered_with_the_known(server: Server) -> None:
    found = problem(server.predict(PNG, labels="circle,nose,ear"), 422, "invalid-parameter")
    assert found["unknown_labels"] == ["ear", "nose"]
    assert found["known_labels"] == list(LABELS)
    assert "'ring, broken'" in found["detail"]


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"model": "nuclei"}, id="another model"),
        pytest.param({"model": "../probe"}, id="a path"),
        pytest.param({"model": ""}, id="an empty name"),
        pytest.param({"version": 2}, id="another version"),
        pytest.param({"model": "nuclei", "version": 1}, id="another model's version"),
    ],
)
def test_unknown_models(server: Server, parameters: dict[str, Any]) -> None:
    assert "probe/1" in problem(server.predict(PNG, **parameters), 404, "no-such-model")["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("GET", "/nothing/here", 404, id="unknown path"),
        pytest.param("GET", "/predict", 405, id="wrong method"),
        pytest.param("DELETE", "/models/probe", 405, id="a method that nothing has"),
    ],
)
def test_unknown_routes_are_problems_too(server: Server, method: str, path: str, status: int) -> None:
    response = server.client.request(method, path)
    assert path in problem(response, status, "")["detail"]
    if status == 405:
        assert response.headers["allow"]


def test_an_engine_failure_is_a_500_without_its_stack_trace(server: Server) -> None:
    found = problem(server.predict(encode(picture(fail=True))), 500, "internal-error")
    assert "onnx" not in str(found).lower()
    until(lambda: any("Traceback" in line for line in server.log))  # the log has what the client must not see


@pytest.mark.parametrize("parameters", [{"format": "CSV"}, {"tile": "big"}, {"masks": "png"}, {"timeout_ms": "soon"}])
def test_a_wrong_parameter_has_the_name_that_was_asked_by(server: Server, parameters: dict[str, str]) -> None:
    found = problem(server.predict(PNG, **parameters), 422, "invalid-parameter")
    assert {error["parameter"] for error in found["errors"]} == {*parameters}
