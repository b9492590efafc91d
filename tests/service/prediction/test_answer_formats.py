"""Several images in a request, COCO results, pictures and compressed answers: the same detections in other clothes."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from model.runtime.bundles.repository import Repository
from model.runtime.overlay import draw_overlay
from model.runtime.predict import Predictor
from tests.service.harness import LABELS, Server, encode, picture, until

PNG = {"Content-Type": "image/png"}


def batch(server: Server, *files: tuple[str, bytes], **query: Any) -> httpx.Response:
    parts = [("file", (name, data, "image/png")) for name, data in files]
    return server.client.post("/predict/batch", files=parts, params=query)


def without_timing(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "timing_ms"}


def test_a_batch_answers_as_single_requests_do_in_order_and_a_bad_image_fails_alone(server: Server) -> None:
    images = [encode(picture(seed, size)) for seed, size in enumerate([(64, 64), (64, 96), (64, 64), (100, 64)])]
    files = [("a.png", images[0]), ("bad.png", b"no image"), ("b.png", images[1]), ("a.png", images[2])]
    response = batch(server, *files, ("cut.png", images[3][:-200]), score_threshold=0.5)
    assert response.status_code == 200
    answers = response.json()["answers"]
    assert [answer["file"] for answer in answers] == ["a.png", "bad.png", "b.png", "a.png", "cut.png"]
    assert [answer["status"] for answer in answers] == [200, 400, 200, 200, 400]
    for place, image in ((0, images[0]), (2, images[1]), (3, images[2])):
        alone = server.predict(image, score_threshold=0.5).json()
        assert without_timing(answers[place]["prediction"]) == without_timing(alone)
    assert answers[1]["problem"]["type"] == "urn:maskserve:problem:not-an-image"
    assert answers[4]["problem"]["type"] == "urn:maskserve:problem:damaged-image"
    assert answers[4]["problem"]["status"] == 400


def test_an_engine_failure_in_a_batch_fails_alone(server: Server) -> None:
    answers = batch(server, ("good", encode(picture(1))), ("bad", encode(picture(2, fail=True)))).json()["answers"]
    assert [answer["status"] for answer in answers] == [200, 500]
    assert "onnx" not in str(answers[1]).lower()


def test_a_batch_is_bulk_work_unless_it_says_otherwise(server: Server) -> None:
    def logged(answered: httpx.Response) -> str:
        """The request's own line, which is written when the answer has gone."""
        request_id = answered.headers["X-Request-ID"]
        until(lambda: any(request_id in line for line in server.log))
        return next(line for line in server.log if request_id in line)

    assert '"priority":"bulk"' in logged(batch(server, ("a", encode(picture(1)))))
    assert '"priority":"interactive"' in logged(batch(server, ("a", encode(picture(1))), priority="interactive"))


def test_a_raw_image_is_a_batch_of_one(server: Server) -> None:
    response = server.client.post("/predict/batch", content=encode(picture(1)), headers=PNG)
    (answer,) = response.json()["answers"]
    assert (answer["status"], answer["file"]) == (200, "")


@pytest.mark.parametrize(
    ("count", "status"),
    [pytest.param(16, 200, id="as many as allowed"), pytest.param(17, 400, id="one more")],
)
def test_images_of_a_batch_are_limited(server: Server, count: int, status: int) -> None:
    response = batch(server, *[("a", encode(picture(1)))] * count)
    assert response.status_code == status
    if status == 400:
        assert "more than 16 parts; send fewer images at once" in response.json()["detail"]


def test_a_batch_takes_a_place_for_each_image_or_none(start_server: Callable[..., Server]) -> None:
    server = start_server("--max-queue-size", "4")
    with ThreadPoolExecutor(2) as pool:
        with server.busy():
            # Batches are bulk work, whose places are their own.
            first = pool.submit(batch, server, *[("a", encode(picture(1)))] * 3)
            until(lambda: server.metrics()["maskserve_requests_in_flight"] == 4)
            refused = batch(server, *[("a", encode(picture(1)))] * 2)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            single = pool.submit(batch, server, ("a", encode(picture(1))))
            until(lambda: server.metrics()["maskserve_requests_in_flight"] == 5)
        assert first.result().status_code == 200
        assert single.result().status_code == 200
    assert server.metrics()["maskserve_batch_size_sum"] == 1 + 3 + 1


def test_a_client_that_leaves_takes_its_whole_batch_out_of_the_queue(start_server: Callable[..., Server]) -> None:
    server = start_server("--max-batch-size", "1")
    image = encode(picture(1))
    with server.busy() as blockers:
        request = server.client.build_request("POST", "/predict/batch", files=[("file", ("a", image))] * 5)
        with server.connect() as connection:
            lines = [f"{name}: {value}" for name, value in request.headers.items() if name.lower() != "host"]
            top = "\r\n".join(["POST /predict/batch HTTP/1.1", "Host: x", *lines, "", ""])
            connection.sendall(top.encode() + request.read())
            until(lambda: server.metrics()["maskserve_requests_in_flight"] == 6)
        until(lambda: server.metrics()["maskserve_requests_in_flight"] == 1)
    assert blockers[0].result().status_code == 200
    metrics = Counter(server.metrics())
    assert metrics["maskserve_batch_size_sum"] == 1
    left = [name for name in metrics if name.startswith('maskserve_dropped_total{outcome="cancelled"')]
    assert sum(metrics[name] for name in left) == 1


def test_coco_results_are_the_same_detections(server: Server) -> None:
    image = encode(picture(3, (64, 96)))
    answer = server.predict(image).json()
    results = server.predict(image, format="coco", image_id=7).json()
    assert len(results) == len(answer["boxes"]) > 2
    for place, entry in enumerate(results):
        x1, y1, x2, y2 = answer["boxes"][place]
        np.testing.assert_allclose(entry["bbox"], [x1, y1, x2 - x1, y2 - y1], atol=6e-4)
        assert (entry["image_id"], entry["category_id"]) == (7, answer["label_ids"][place])
        assert entry["score"] == answer["scores"][place]
        assert entry["segmentation"] == answer["masks"][place]


def test_coco_results_of_a_batch_count_their_images(server: Server) -> None:
    files = [("a", encode(picture(1))), ("b", b"no image"), ("c", encode(picture(2)))]
    answers = batch(server, *files, format="coco", image_id=100, masks="none").json()["answers"]
    assert {entry["image_id"] for entry in answers[0]["prediction"]} == {100}
    assert {entry["image_id"] for entry in answers[2]["prediction"]} == {102}
    assert all("segmentation" not in entry for entry in answers[0]["prediction"])


def drawn(server: Server, image: bytes, accept: str, **query: Any) -> httpx.Response:
    return server.client.post("/predict", content=image, headers={**PNG, "Accept": accept}, params=query)


def test_who_accepts_a_picture_gets_the_detections_drawn_on_the_image(server: Server, repository: Path) -> None:
    pixels = picture(4, (90, 120))
    predictor = Predictor.of_bundle(Repository(repository).latest("probe"), device="cpu", threads=1)
    expected = draw_overlay(pixels, predictor.predict([pixels], 0.3, 100)[0], LABELS)
    response = drawn(server, encode(pixels), "image/png")
    assert response.headers["content-type"] == "image/png"
    found = np.asarray(Image.open(BytesIO(response.content)))
    np.testing.assert_array_equal(found, expected)
    assert (found != pixels).any()
    nothing = drawn(server, encode(pixels), "image/png", score_threshold=1)
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(nothing.content))), pixels)


def test_the_picture_is_upright(server: Server) -> None:
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    buffer = BytesIO()
    Image.fromarray(picture(4, (60, 120))).save(buffer, "PNG", exif=exif)
    response = drawn(server, buffer.getvalue(), "image/png")
    assert Image.open(BytesIO(response.content)).size == (60, 120)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        pytest.param("*/*", "application/json", id="anything"),
        pytest.param("application/json", "application/json", id="JSON"),
        pytest.param("image/png, application/json", "application/json", id="both alike"),
        pytest.param("application/json;q=0.5, image/png", "image/png", id="rather a picture"),
        pytest.param("image/png;q=0.2, application/json;q=0.3", "application/json", id="rather JSON"),
        pytest.param("image/png;q=0", "application/json", id="no picture"),
        pytest.param("text/html, image/png;q=x", "application/json", id="not a number"),
        pytest.param("image/webp, image/png", "image/png", id="a list"),
    ],
)
def test_the_client_says_which_it_wants(server: Server, accept: str, media_type: str) -> None:
    response = drawn(server, encode(picture(1)), accept)
    assert response.headers["content-type"] == media_type
    assert "Accept" in response.headers["vary"]


def test_a_picture_of_a_bad_image_is_a_problem(server: Server) -> None:
    response = drawn(server, b"no image", "image/png")
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")


def test_answers_are_compressed_for_who_accepts_it(server: Server) -> None:
    image = encode(picture(1, (64, 128)))
    query: dict[str, str | int] = {"masks": "rle_uncompressed", "score_threshold": 0}
    sizes = {}
    answers = []
    for accepted in ("identity", "gzip"):
        headers = {**PNG, "Accept-Encoding": accepted}
        with server.client.stream("POST", "/predict", content=image, headers=headers, params=query) as response:
            body = b"".join(response.iter_raw())
            assert response.headers.get("content-encoding") == (None if accepted == "identity" else "gzip")
            assert "Accept-Encoding" in response.headers["vary"]
        sizes[accepted] = len(body)
        answers.append(
            without_timing(httpx.Response(200, content=gzip.decompress(body) if accepted == "gzip" else body).json())
        )
    assert answers[0] == answers[1]
    assert sizes["gzip"] < sizes["identity"] / 2


def test_requests_may_be_compressed(server: Server) -> None:
    image = encode(picture(1))
    packed = server.client.post("/predict", content=gzip.compress(image), headers={**PNG, "Content-Encoding": "gzip"})
    assert without_timing(packed.json()) == without_timing(server.predict(image).json())


def test_accept_may_stand_in_several_lines(server: Server) -> None:
    lines = [("Content-Type", "image/png"), ("Accept", "application/json;q=0.5"), ("Accept", "image/png")]
    answer = server.client.post("/predict", content=encode(picture(1)), headers=lines)
    assert answer.headers["content-type"] == "image/png"
