"""`planes=all` at a real server: an answer for each plane, as it is alone; what narrows it, and what contradicts it."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.service.harness import Server, encode, picture, until
from tests.service.routes.test_planes import PLANES, ask, stack


def items_of(server: Server, data: bytes, **parameters: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = ask(server, data, planes="all", **parameters)["answers"]
    return items


def test_all_planes_are_answered_as_each_is_alone(server: Server) -> None:
    for narrowed, expected in (
        ({}, [{"z": z, "channel": channel} for z in range(3) for channel in range(2)]),
        ({"channel": 1}, [{"z": z, "channel": 1} for z in range(3)]),
        ({"z": 2, "t": 0}, [{"z": 2, "channel": channel} for channel in range(2)]),
    ):
        items = items_of(server, stack(), **narrowed)
        assert [{axis: which["index"] for axis, which in item["plane"].items()} for item in items] == expected
        for item, one in zip(items, expected, strict=True):
            found, alone = item["prediction"], ask(server, stack(), **one)
            assert item["status"] == 200
            assert item["plane"] == found["image"]["plane"]
            assert {**found, "timing_ms": 0} == {**alone, "timing_ms": 0}


def test_wishes_hold_for_all_planes(server: Server) -> None:
    items = items_of(server, stack(), format="coco", image_id=7, max_detections=1)
    assert [[found["image_id"] for found in item["prediction"]] for item in items] == [[7 + at] for at in range(6)]
    (item,) = items_of(server, encode(PLANES[1]))
    assert item["plane"] == {}
    assert item["prediction"]["scores"] == ask(server, encode(PLANES[1]))["scores"]
    (item,) = items_of(server, encode(picture(3)), channel=2)
    assert item["plane"] == {"channel": {"index": 2, "of": 3}}


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("route", ["/predict?planes=all", "/predict/batch?"])
def test_coco_results_of_several_say_what_was_seen_and_cut_off(server: Server, route: str, accept: str) -> None:
    deep = encode(PLANES[0].astype(np.uint16) * 16)
    for most, truncated in ((1, True), (6, False)):
        body: dict[str, Any] = {"content": stack(), "headers": {"Content-Type": "image/tiff", "Accept": accept}}
        if "batch" in route:
            body = {"files": [("file", deep), ("file", b"none")], "headers": {"Accept": accept}}
        text = server.client.post(f"{route}&format=coco&score_threshold=0&max_detections={most}", **body).text
        items = json.loads(text)["answers"] if accept.endswith("/json") else map(json.loads, text.splitlines()[1:-1])
        for item in items:
            if item["status"] == 200:
                assert len(item["prediction"]) == most
                assert item["truncated"] == truncated
                assert ("intensity" in item["image"]) == ("batch" in route)
                assert (item["image"]["width"], item["image"].get("plane")) == (64, item.get("plane"))
            else:
                assert item.keys() == {"file", "status", "problem"}


def test_planes_in_lines(server: Server) -> None:
    whole = items_of(server, stack())
    headers = {"Accept": "application/x-ndjson", "Content-Type": "image/tiff"}
    response = server.client.post("/predict", content=stack(), headers=headers, params={"planes": "all"})
    head, *items, end = [json.loads(line) for line in response.text.splitlines()]
    assert (head, end) == ({"model": whole[0]["prediction"]["model"], "planes": 6}, {"end": {"planes": 6}})
    for item, same in zip(items, whole, strict=True):
        del item["prediction"]["timing_ms"], same["prediction"]["timing_ms"]
        assert item == same


def test_a_bad_plane_fails_alone(server: Server) -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(PLANES[0], metadata=None)
        writer.write(np.zeros((8, 8), np.complex64), metadata=None)
        writer.write(np.zeros((1100, 1000), np.uint8), metadata=None, compression="zlib")
        writer.write(PLANES[1], metadata=None)
    items = items_of(server, file.getvalue())
    assert [item["status"] for item in items] == [200, 415, 413, 200]
    assert [item["plane"]["page"] for item in items] == [{"index": at, "of": 4} for at in range(4)]
    assert "COMPLEX" in items[1]["problem"]["detail"]
    assert items[3]["prediction"]["scores"] == ask(server, encode(PLANES[1]))["scores"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"page": 0}, "planes: contradicts page"),
        ({"format": "csv"}, "planes: does not go with format=csv"),
        ({"format": "labels"}, "planes: does not go with format=labels"),
        ({"planes": "some"}, "planes"),
        ({"z": 3}, "the image has no z 3: it has 3, counted from 0"),
        ({"t": 1}, "the image has no t 1: its file states no axis t"),
    ],
)
def test_what_contradicts_all_planes(server: Server, parameters: dict[str, Any], message: str) -> None:
    response = server.predict(stack(), **{"planes": "all", **parameters})
    assert response.status_code == 422
    assert response.json()["detail"].startswith(message)


def test_more_planes_than_are_answered_at_once(server: Server) -> None:
    file = BytesIO()
    tifffile.imwrite(file, np.zeros((1001, 8, 8), np.uint8), photometric="minisblack", imagej=True, truncate=True)
    response = server.predict(file.getvalue(), planes="all")
    assert response.status_code == 422
    assert "that would be 1001 planes of the image, and at most 1000" in response.json()["detail"]
    assert server.predict(b"no image", planes="all").status_code == 400


def test_all_planes_are_bulk_unless_asked_otherwise(server: Server) -> None:
    for parameters, priority in (({}, "bulk"), ({"priority": "interactive"}, "interactive")):
        before = len(server.log)
        items_of(server, stack(), **parameters)
        until(lambda before=before: any('"images":6' in line for line in server.log[before:]))
        assert any(f'"priority":"{priority}"' in line for line in server.log[before:])


def test_a_client_that_leaves_ends_its_planes(server: Server) -> None:
    """Those that nobody has begun are never read."""
    before, file = len(server.log), BytesIO()
    tifffile.imwrite(file, np.zeros((120, 32, 32), np.uint8), imagej=True, photometric="minisblack")
    with server.busy():
        headers = {"Accept": "application/x-ndjson", "Content-Type": "image/tiff"}
        url = "/predict?planes=all"
        with server.client.stream("POST", url, content=file.getvalue(), headers=headers) as response:
            assert response.status_code == 200
        until(lambda: any('"status":499' in line for line in server.log[before:]))
    (line,) = [json.loads(line) for line in server.log[before:] if '"status":499' in line]
    assert line["images"] < 120
