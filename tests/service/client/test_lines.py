"""Answers in lines: the same as in one JSON, told while they come, and never taken for whole where they are not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest

from service.client import AsyncClient, Client, ConnectionLostError, ServerProblem
from service.client.lines import NDJSON, Watch, assembled
from tests.service.client.loopback import Reply, loopback
from tests.service.harness import Server, encode, picture
from tests.service.routes.test_planes import stack

LARGE = encode(np.full((300, 200, 3), (0, 250, 255), np.uint8))
TILED: dict[str, Any] = {"tile": 100, "overlap": 10}
Told = list[tuple[int, int]]

HEAD = {
    "model": {"name": "probe", "version": 1},
    "image": {"width": 8, "height": 4},
    "detections": 1,
    "columns": ["boxes", "labels", "label_ids", "scores"],
    "truncated": False,
    "timing_ms": {},
}
ONE = {"box": [0.5, 1e-05, 3.0, 2], "label": "ä", "label_id": 1, "score": 0.1}
PROGRESS = {"progress": {"tiles": 1, "of": 2}}
END = {"end": {"detections": 1}}
BUSY = {"type": "urn:maskserve:problem:queue-full", "title": "busy", "status": 429, "detail": "so", "retry_after": 0}
WRONG = {"type": "urn:maskserve:problem:damaged-image", "title": "no", "status": 400, "detail": "so", "more": 1}


def body(*lines: dict[str, Any]) -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def reply(*lines: dict[str, Any], pieces: int = 1) -> Reply:
    return Reply(body=body(*lines), headers={"Content-Type": NDJSON}, pieces=pieces)


def ask(url: str, is_async: bool, told: Told, image: bytes = b"image", **options: Any) -> bytes:
    def progress(done: int, of: int) -> None:
        told.append((done, of))

    async def awaited() -> bytes:
        async with AsyncClient(url) as client:
            return await client.predict_json(image, progress=progress, **options)

    if is_async:
        return asyncio.run(awaited())
    with Client(url) as client:
        return client.predict_json(image, progress=progress, **options)


def timeless(answer: bytes) -> bytes:
    """Its last member, the times, cut off."""
    return answer[: answer.index(b'"timing_ms"')]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("image", "options", "tiles"),
    [
        pytest.param(encode(picture(1)), {}, 0, id="whole"),
        pytest.param(encode(picture(1)), {"masks": "polygon", "max_detections": 2}, 0, id="polygons, truncated"),
        pytest.param(encode(picture(1)), {"masks": "none"}, 0, id="no masks"),
        pytest.param(encode(picture(1)), {"score_threshold": 1}, 0, id="nothing found"),
        pytest.param(LARGE, TILED, 12, id="in tiles"),
    ],
)
def test_the_answer_is_that_without_lines_to_the_byte(
    server: Server, is_async: bool, image: bytes, options: dict[str, Any], tiles: int
) -> None:
    told: Told = []
    answer = ask(server.url, is_async, told, image, **options)
    with Client(server.url) as client:
        assert timeless(answer) == timeless(client.predict_json(image, **options))
    done = [one for one, _ in told]
    assert done == sorted(done)
    assert {of for _, of in told} == ({tiles} if tiles else set())


def test_planes_are_told_as_they_come(server: Server) -> None:
    told: Told = []
    with Client(server.url) as client:
        watched = client.predict_planes(stack(), progress=lambda done, of: told.append((done, of)), channel=1)
        plain = client.predict_planes(stack(), channel=1)
    assert told == [(done, 3) for done in range(4)]
    assert [one.plane for one in watched] == [{"z": z, "channel": 1} for z in range(3)]
    for one, same in zip(watched, plain, strict=True):
        assert one.prediction is not None
        assert same.prediction is not None
        assert one.prediction.plane == one.plane
        assert {**one.prediction.json, "timing_ms": 0} == {**same.prediction.json, "timing_ms": 0}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param([], id="nothing"),
        pytest.param([PROGRESS], id="progress alone"),
        pytest.param([PROGRESS, HEAD, ONE], id="no end"),
        pytest.param([HEAD, END], id="fewer than announced"),
        pytest.param([HEAD, ONE, {"end": {"detections": 2}}], id="more at the end"),
        pytest.param([{**HEAD, "detections": 2}, ONE, END], id="more in the head"),
        pytest.param([HEAD, {"label": "ä"}, END], id="half a detection"),
        pytest.param([PROGRESS, HEAD, ONE, {"error": BUSY}], id="a passing error behind the head"),
    ],
)
def test_what_is_not_whole_is_asked_for_again(is_async: bool, broken: Sequence[dict[str, Any]]) -> None:
    with loopback([reply(*broken), reply(PROGRESS, HEAD, ONE, END)]) as server:
        answer = orjson.loads(ask(server.url, is_async, []))
        assert len(server.times) == 2
    assert answer["scores"] == [0.1]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_lasting_error_behind_the_head_is_the_usual_error(is_async: bool) -> None:
    with loopback([reply(PROGRESS, HEAD, ONE, {"error": WRONG})]) as server:
        with pytest.raises(ServerProblem) as caught:
            ask(server.url, is_async, [])
        assert len(server.times) == 1
    assert caught.value.as_problem() == WRONG


def test_a_server_that_knows_no_lines_answers_in_json() -> None:
    told: Told = []
    with loopback([Reply()]) as server:
        assert orjson.loads(ask(server.url, False, told))["scores"] == []
        assert server.heads[0]["Accept"] == "application/x-ndjson, application/json;q=0.5"
    assert told == []


def test_a_line_may_come_in_any_pieces() -> None:
    lines = body(PROGRESS, {"progress": {"tiles": 2, "of": 2}}, HEAD, ONE, END)
    for size in (1, 7, len(lines)):
        told: Told = []
        watch = Watch(lambda done, of, told=told: told.append((done, of)))  # type: ignore[misc]  # of a loop's variable
        for start in range(0, len(lines), size):
            watch.add(lines[start : start + size])
        assert told == [(1, 2), (2, 2)]


def test_a_line_that_is_cut_is_no_line() -> None:
    lines = body(HEAD, ONE, END)
    for length in range(len(lines) - 1):
        with pytest.raises(ConnectionLostError):
            assembled(lines[:length])
    assert orjson.loads(assembled(lines))["boxes"] == [ONE["box"]]
