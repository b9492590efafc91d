"""Pictures of more than 8 bits at a real server: what is made of them, what may be asked for, what is said."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.service.harness import Server, encode, picture

GRAY = picture(7)[..., 0]


def tiff(values: NDArray[Any]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    return buffer.getvalue()


TWELVE = tiff(GRAY.astype(np.uint16) * 16)


def ask(server: Server, data: bytes, **parameters: Any) -> dict[str, Any]:
    response = server.predict(data, **parameters)
    assert response.status_code == 200, response.text
    value: dict[str, Any] = response.json()
    return value


def test_8_bits_say_nothing_unless_asked(server: Server) -> None:
    plain = ask(server, encode(picture(7)))
    assert plain["image"] == {"width": 64, "height": 64}
    assert ask(server, encode(picture(7)), intensity="auto")["image"] == plain["image"]
    asked = ask(server, encode(picture(7)), intensity="full-range")
    assert asked["image"] == {**plain["image"], "intensity": {"mode": "full-range", "low": 0, "high": 255}}
    assert asked["scores"] == plain["scores"]


@pytest.mark.parametrize(
    ("data", "parameters", "done"),
    [
        pytest.param(TWELVE, {}, ("auto", 0, 4095), id="12 bits"),
        pytest.param(TWELVE, {"intensity": "full-range"}, ("full-range", 0, 65535), id="of 16"),
        pytest.param(TWELVE, {"intensity": "full-range", "high": 4080}, ("full-range", 0, 4080), id="a window"),
        pytest.param(TWELVE, {"low": 160.5, "high": 3000}, ("full-range", 160.5, 3000), id="values alone"),
        pytest.param(TWELVE, {"low": 160}, ("full-range", 160, 65535), id="one value alone"),
        pytest.param(
            TWELVE, {"intensity": "min-max"}, ("min-max", int(GRAY.min()) * 16, int(GRAY.max()) * 16), id="min-max"
        ),
        pytest.param(
            TWELVE,
            {"intensity": "percentile", "low": 25, "high": 75},
            ("percentile", *np.percentile(GRAY.astype(float) * 16, [25, 75])),
            id="percentile",
        ),
        pytest.param(tiff(GRAY.astype(np.int32)), {}, ("auto", 0, 255), id="8 bits in 32"),
        pytest.param(tiff(GRAY / np.float32(255)), {}, ("auto", 0, 1), id="floats"),
    ],
)
def test_the_answer_says_what_was_done(
    server: Server, data: bytes, parameters: dict[str, Any], done: tuple[str, float, float]
) -> None:
    said = ask(server, data, **parameters)["image"]["intensity"]
    assert list(said) == ["mode", "low", "high"]
    assert said["mode"] == done[0]
    assert [said["low"], said["high"]] == pytest.approx(done[1:])


def test_the_same_picture_in_more_bits_finds_the_same(server: Server) -> None:
    expected = ask(server, encode(GRAY))
    for values in (GRAY.astype(np.uint16) * 16, GRAY.astype(np.uint16) * 257, GRAY.astype(np.int32)):
        found = ask(server, tiff(values))
        assert found["label_ids"] == expected["label_ids"]
        assert found["scores"] == pytest.approx(expected["scores"], abs=0.02)
    again = ask(server, TWELVE)
    window = again["image"]["intensity"]
    assert ask(server, TWELVE, low=window["low"], high=window["high"])["scores"] == again["scores"]


def test_values_that_are_not_finite_are_counted(server: Server) -> None:
    values = GRAY / np.float32(255)
    values[:2, 0] = np.nan, np.inf
    assert ask(server, tiff(values))["image"]["intensity"]["not_finite"] == 2
    nothing = server.predict(tiff(values * np.float32(np.nan)))
    assert nothing.status_code == 400
    assert "no finite value" in nothing.json()["detail"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"intensity": "gamma"}, "intensity: should be 'auto', 'full-range', 'min-max' or 'percentile'"),
        ({"intensity": "min-max", "low": 3}, "intensity: low and high do not go with min-max"),
        ({"intensity": "auto", "high": 3}, "intensity: low and high do not go with auto"),
        ({"low": 3, "high": 3}, "intensity: low (3) must be less than high (3)"),
        ({"intensity": "percentile", "high": 101}, "must be percentiles from 0 to 100"),
        ({"intensity": "percentile", "low": 50, "high": 20}, "must be percentiles from 0 to 100"),
        ({"low": "nan"}, "low: should be a finite number"),
        ({"high": "bright"}, "high: should be a valid number"),
        ({"low": 70000}, "low (70000) is not below the largest value that the picture can have (65535)"),
    ],
)
def test_contradictions_are_answered_with_a_sentence(server: Server, parameters: dict[str, Any], words: str) -> None:
    response = server.predict(TWELVE, **parameters)
    assert response.status_code == 422
    assert response.json()["type"] == "urn:maskserve:problem:invalid-parameter"
    assert words in response.json()["detail"]


def test_floats_without_a_known_range_need_one(server: Server) -> None:
    data = tiff(GRAY.astype(np.float32))
    refused = server.predict(data, intensity="full-range")
    assert refused.status_code == 422
    assert "give high" in refused.json()["detail"]
    assert ask(server, data, intensity="full-range", high=255)["image"]["intensity"]["high"] == 255


def test_each_image_of_a_batch_says_its_own(server: Server) -> None:
    files = [("file", ("a.tif", TWELVE)), ("file", ("b.png", encode(picture(7)))), ("file", ("c.tif", TWELVE[:200]))]
    answers = server.client.post("/predict/batch", files=files).json()["answers"]
    assert answers[0]["prediction"]["image"]["intensity"] == {"mode": "auto", "low": 0, "high": 4095}
    assert "intensity" not in answers[1]["prediction"]["image"]
    assert answers[2]["status"] == 400
    asked = server.client.post("/predict/batch", params={"low": 70000}, files=files[:2]).json()["answers"]
    assert [one["status"] for one in asked] == [422, 422]  # 70000 is out of either's range


def test_the_picture_with_detections_is_what_the_network_saw(server: Server) -> None:
    def drawn(data: bytes, **parameters: Any) -> NDArray[np.uint8]:
        query = {"score_threshold": 1, **parameters}
        response = server.client.post("/predict", params=query, files={"file": data}, headers={"Accept": "image/png"})
        return np.asarray(Image.open(BytesIO(response.content)).convert("L"))

    assert np.abs(drawn(TWELVE).astype(int) - GRAY).max() <= 1
    assert drawn(TWELVE, intensity="full-range").max() <= 16


def test_the_inference_protocol_takes_the_same_parameters(server: Server) -> None:
    def infer(**parameters: Any) -> Any:
        image = {"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(TWELVE).decode()]}
        body = {"inputs": [image], "outputs": [{"name": "SCORES"}], "parameters": parameters}
        return server.client.post("/v2/models/probe/infer", json=body)

    scores = infer(intensity="full-range", low=0, high=4095.0).json()["outputs"][0]["data"]
    assert (
        scores == infer().json()["outputs"][0]["data"] == infer(intensity=None, low=None).json()["outputs"][0]["data"]
    )
    refused = infer(intensity="min-max", low=1)
    assert refused.status_code == 422
    assert "do not go with min-max" in refused.json()["detail"]
    assert infer(low="1").status_code == 422


@pytest.mark.parametrize("accept", ["application/json", "image/png"], ids=["coco", "picture"])
def test_answers_without_a_place_for_it_say_it_in_headers(server: Server, accept: str) -> None:
    for data, wishes in ((TWELVE, {"pixel_size_um": 0.5}), (encode(picture(7)), {}), (TWELVE, {"max_detections": 1})):
        said = ask(server, data, **wishes)
        headers = {"Content-Type": "image/tiff", "Accept": accept}
        query = {**wishes, "format": "coco" if accept.endswith("json") else "maskserve"}
        response = server.client.post("/predict", content=data, headers=headers, params=query)
        assert json.loads(response.headers["maskserve-image"]) == said["image"]
        assert json.loads(response.headers["maskserve-truncated"]) == said["truncated"]
    assert "maskserve-image" not in server.predict(TWELVE).headers
