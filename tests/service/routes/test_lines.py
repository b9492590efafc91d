"""Answers in lines at a real server: the same as in one JSON, sent while they are made, and never taken for whole where
they are not.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import httpx
import numpy as np
import pytest

from tests.service.harness import Server, encode, picture, until

NDJSON = "application/x-ndjson"
LARGE = encode(np.full((300, 200, 3), (0, 250, 255), np.uint8))
TILED = {"tile": 100, "overlap": 10}


def unseen(green: int) -> bytes:
    """A large picture that the server does not remember, for a test that alone shows it in this green."""
    return encode(np.full((300, 200, 3), (0, green, 255), np.uint8))


PLURAL = {"box": "boxes", "label": "labels", "label_id": "label_ids", "score": "scores", "mask": "masks"}


def ask(server: Server, data: bytes, **parameters: Any) -> httpx.Response:
    headers = {"Content-Type": "image/png", "Accept": NDJSON}
    return server.client.post("/predict", content=data, headers=headers, params=parameters)


def lines_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert (response.status_code, response.headers["content-type"]) == (200, NDJSON), response.text
    return [json.loads(line) for line in response.text.splitlines()]


@contextmanager
def begun(server: Server, path: str, data: bytes, **headers: str) -> Iterator[HTTPResponse]:
    """An answer of which nothing but the head has been read."""
    with closing(HTTPConnection(server.url.removeprefix("http://"), timeout=20)) as connection:
        connection.request("POST", path, data, {"Content-Type": "image/png", "Accept": NDJSON, **headers})
        with connection.getresponse() as response:
            yield response


def logged(server: Server, status: int, before: int) -> dict[str, Any]:
    """The request that was logged with this status since the log had so many lines."""

    def found() -> list[str]:
        return [line for line in server.log[before:] if f'"status":{status},' in line and '"/predict"' in line]

    until(lambda: bool(found()))
    return dict(json.loads(found()[0]))


@pytest.mark.parametrize(
    ("data", "parameters"),
    [
        pytest.param(encode(picture(1)), {}, id="whole"),
        pytest.param(encode(picture(1)), {"masks": "none"}, id="without masks"),
        pytest.param(encode(picture(1)), {"masks": "polygon", "max_detections": 2}, id="polygons, truncated"),
        pytest.param(encode(picture(1)), {"score_threshold": 1}, id="nothing found"),
        pytest.param(LARGE, TILED, id="in tiles"),
    ],
)
def test_lines_say_what_the_json_says(server: Server, data: bytes, parameters: dict[str, Any]) -> None:
    whole = server.predict(data, **parameters).json()
    lines = [line for line in lines_of(ask(server, data, **parameters)) if "progress" not in line]
    head, *found, end = lines
    assert end == {"end": {"detections": len(found)}}
    assert head["detections"] == len(found) == len(whole["scores"])
    assert set(head.pop("timing_ms")) == set(whole.pop("timing_ms"))
    columns = {plural: [one[name] for one in found] for name, plural in PLURAL.items() if plural in whole}
    assert head.pop("columns") == [column for column in whole if column in PLURAL.values()]
    assert {name: value for name, value in head.items() if name != "detections"} | columns == whole
    assert all(set(one) == {name for name, plural in PLURAL.items() if plural in whole} for one in found)


def test_tiles_are_told_as_they_are_seen(server: Server) -> None:
    lines = lines_of(ask(server, LARGE, **TILED))
    told = [line["progress"] for line in lines if "progress" in line]
    assert lines[: len(told)] == [{"progress": one} for one in told]
    done = [one["tiles"] for one in told]
    tiles = lines[len(told)]["image"]["tiles"]
    assert done == sorted(done)
    assert {one["of"] for one in told} == {tiles}
    assert (done[0], done[-1] <= tiles) == (0, True)
    assert not any("progress" in line for line in lines_of(ask(server, encode(picture(1)))))


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_lines_come_before_the_answer_is_there(server: Server, encoding: str) -> None:
    path = "/predict?tile=100&overlap=10"
    with server.busy(), begun(server, path, LARGE, **{"Accept-Encoding": encoding}) as response:
        assert response.getheader("content-encoding") == (None if encoding == "identity" else "gzip")
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        first = b""
        while not first.endswith(b"\n"):
            piece = response.read1()
            first += piece if encoding == "identity" else unpacker.decompress(piece)
        assert json.loads(first) == {"progress": {"tiles": 0, "of": 12}}


def test_a_client_that_leaves_ends_the_work(server: Server) -> None:
    before, dropped = len(server.log), 'maskserve_dropped_total{outcome="cancelled",reason="queue"}'
    count = server.metrics().get(dropped, 0.0)
    with server.busy():
        with begun(server, "/predict?tile=100&overlap=10", unseen(248)) as response:
            assert response.status == 200
        logged(server, 499, before)
        until(lambda: server.metrics()["maskserve_requests_in_flight"] == 1)  # what keeps the engine busy
    assert server.metrics()[dropped] == count + 1


def test_what_fails_before_the_first_line_has_its_own_status(server: Server) -> None:
    for data, parameters, status in (
        (b"no image", {}, 400),
        (encode(picture(1)), {"score_threshold": 2}, 422),
        (encode(picture(1, fail=True)), {}, 500),
    ):
        response = ask(server, data, **parameters)
        assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")


def test_what_fails_behind_the_first_line_is_told_in_the_last(server: Server) -> None:
    before = len(server.log)
    requests = 'maskserve_requests_total{route="/predict",status="504"}'
    count = server.metrics().get(requests, 0.0)
    other = unseen(249)
    with server.busy():
        *_, last = lines_of(ask(server, other, timeout_ms=2000, priority="bulk", **TILED))
    assert last["error"]["type"].endswith("deadline-passed")
    assert last["error"]["status"] == 504
    assert logged(server, 504, before)["problem"] == "deadline-passed"
    assert server.metrics()[requests] == count + 1


def test_a_broken_tile_is_told_in_the_last_line(server: Server) -> None:
    image = picture(2, (200, 200))
    image[:9, :9, 1] = 255  # in the first tile, as `picture(fail=True)` has it
    *_, last = lines_of(ask(server, encode(image), **TILED))
    assert last["error"]["status"] == 500
    assert "log" in last["error"]["detail"]


def test_other_formats_are_no_lines(server: Server) -> None:
    assert isinstance(ask(server, encode(picture(1)), format="coco").json(), list)
    assert ask(server, encode(picture(1)), format="csv").headers["content-type"].startswith("text/csv")


def test_a_batch_in_lines(server: Server) -> None:
    files = [("file", ("good", encode(picture(1)))), ("file", ("bad", b"no image")), ("file", ("", encode(picture(2))))]
    whole = server.client.post("/predict/batch", files=files).json()["answers"]
    head, *items, end = lines_of(server.client.post("/predict/batch", files=files, headers={"Accept": NDJSON}))
    assert (head, end) == ({"model": whole[0]["prediction"]["model"], "images": 3}, {"end": {"images": 3}})
    assert [without_timing(item) for item in items] == [without_timing(item) for item in whole]


def without_timing(item: dict[str, Any]) -> dict[str, Any]:
    item.get("prediction", {}).pop("timing_ms", None)
    return item
