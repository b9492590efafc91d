"""The Open Inference Protocol v2 at a real server, spoken by Triton's own client."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from service import VERSION
from tests.patience import PATIENCE
from tests.service.harness import LABELS, Server, encode, picture, until
from tests.service.routes.v2.triton_client import (
    BLACK,
    IMAGES,
    OUTPUTS,
    PNG,
    ask,
    check_same,
    connect,
    error_of,
    image_input,
    texts,
)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with connect(server, concurrency=4) as client:
        yield client


def test_the_server_is_live_and_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()


def test_the_servers_metadata(client: triton.InferenceServerClient) -> None:
    assert client.get_server_metadata() == {
        "name": "maskserve",
        "version": VERSION,
        "extensions": ["binary_tensor_data", "model_configuration", "model_repository", "statistics"],
    }


@pytest.mark.parametrize(
    ("name", "version", "is_ready"),
    [
        pytest.param("probe", "", True, id="the newest version"),
        pytest.param("probe", "1", True, id="a version"),
        pytest.param("probe", "2", False, id="an unknown version"),
        pytest.param("probe", "latest", False, id="no number"),
        pytest.param("nuclei", "", False, id="an unknown model"),
        pytest.param("nuclei", "1", False, id="an unknown model's version"),
    ],
)
def test_a_model_is_ready_when_it_is_served(
    client: triton.InferenceServerClient, name: str, version: str, is_ready: bool
) -> None:
    assert client.is_model_ready(name, version) == is_ready


@pytest.mark.parametrize("version", ["", "1"])
def test_a_models_metadata_names_its_tensors(client: triton.InferenceServerClient, version: str) -> None:
    metadata = client.get_model_metadata("probe", version)
    assert metadata["name"] == "probe"
    assert metadata["versions"] == ["1"]
    assert metadata["platform"] == "onnx_onnxv1"
    assert metadata["inputs"] == [{"name": "IMAGE", "datatype": "BYTES", "shape": [-1]}]
    assert tuple(output["name"] for output in metadata["outputs"]) == OUTPUTS
    result = ask(client, *IMAGES)
    for output in metadata["outputs"]:  # what it says is what comes
        got = result.get_output(output["name"])
        assert got["datatype"] == output["datatype"]
        assert len(got["shape"]) == len(output["shape"])
        assert all(said in (-1, is_) for said, is_ in zip(output["shape"], got["shape"], strict=True))


def test_the_repositorys_index(client: triton.InferenceServerClient) -> None:
    assert client.get_model_repository_index() == [{"name": "probe", "version": "1", "state": "READY", "reason": ""}]


# --- inference


@pytest.mark.parametrize("images", [IMAGES[:1], IMAGES], ids=["one image", "four images"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "base64"])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_the_answer_is_that_of_predict_to_the_bit(
    client: triton.InferenceServerClient, server: Server, images: Sequence[bytes], binary: bool, threshold: float
) -> None:
    result = ask(client, *images, binary=binary, parameters={"score_threshold": threshold})
    answers = [server.predict(image, score_threshold=threshold).json() for image in images]
    check_same(result, answers)
    counts = [len(answer["scores"]) for answer in answers]
    assert counts[0] > 0
    if len(images) > 1 and threshold:
        assert counts[1] == 0, "the image in the middle was to have no detection"


def test_without_a_detection_all_outputs_are_empty(client: triton.InferenceServerClient) -> None:
    result = ask(client, BLACK, BLACK, parameters={"score_threshold": 0.5})
    shapes = {name: list(result.as_numpy(name).shape) for name in OUTPUTS}
    assert shapes == {name: [0] for name in OUTPUTS} | {"BOXES": [0, 4], "IMAGE_SIZES": [2, 2]}


@pytest.mark.parametrize("binary", [True, False, None], ids=["binary", "JSON", "mixed"])
def test_outputs_come_as_they_are_asked_for(
    client: triton.InferenceServerClient, server: Server, binary: bool | None
) -> None:
    names = OUTPUTS[::-1]
    asked = [n % 2 == 0 if binary is None else binary for n in range(len(names))]
    outputs = [triton.InferRequestedOutput(name, binary_data=is_) for name, is_ in zip(names, asked, strict=True)]
    result = ask(client, *IMAGES, outputs=outputs)
    got = result.get_response()["outputs"]
    assert tuple(output["name"] for output in got) == names
    assert ["binary_data_size" in output.get("parameters", {}) for output in got] == asked
    assert ["data" in output for output in got] == [not is_ for is_ in asked]
    check_same(result, [server.predict(image).json() for image in IMAGES])


def test_only_the_outputs_that_are_asked_for_come(client: triton.InferenceServerClient, server: Server) -> None:
    result = ask(client, PNG, outputs=[triton.InferRequestedOutput(name) for name in ("SCORES", "LABELS")])
    assert [output["name"] for output in result.get_response()["outputs"]] == ["SCORES", "LABELS"]
    assert result.as_numpy("BOXES") is None
    assert texts(result, "LABELS") == server.predict(PNG).json()["labels"]


def test_the_model_the_version_and_the_requests_id_are_in_the_answer(client: triton.InferenceServerClient) -> None:
    for version in ("", "1"):
        answer = ask(client, PNG, model_version=version, request_id="slide 7 µ").get_response()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("probe", "1", "slide 7 µ")
    assert "id" not in ask(client, PNG).get_response()


def deep_stack() -> bytes:
    """An OME-TIFF of two focal planes of 12 bits that states its pixels' size."""
    file = BytesIO()
    planes = np.stack([picture(seed, (120, 110))[..., 0] for seed in range(2)]).astype(np.uint16) * 16
    said = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
    tifffile.imwrite(file, planes, ome=True, metadata=said)
    return file.getvalue()


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_what_was_done_with_each_image_is_said_as_by_predict(
    client: triton.InferenceServerClient, server: Server, binary: bool
) -> None:
    images = (deep_stack(), PNG, encode(picture(3)))
    for parameters in (
        {"z": 1, "tile": "100", "overlap": 10},
        {"low": 16, "high": 4080, "max_detections": 1},
        {"channels": "0,,0"},
    ):
        sent = images[:1] if "z" in parameters or "channels" in parameters else images
        said = ask(client, *sent, binary=binary, parameters=parameters).get_response()["parameters"]
        whole = [server.predict(image, **parameters).json() for image in sent]
        assert json.loads(said["images"]) == [{**one["image"], "truncated": one["truncated"]} for one in whole]
        assert said["truncated"] is any(one["truncated"] for one in whole)
        assert said["precision"] == "f32"
        assert {"pixel_size_um", "plane"} <= whole[0]["image"].keys()


def test_a_limit_that_cut_one_image_off_is_said_of_that_one(
    client: triton.InferenceServerClient, server: Server
) -> None:
    limit = len(server.predict(BLACK, score_threshold=0.5).json()["scores"])
    parameters = {"score_threshold": 0.5, "max_detections": limit + 1}
    said = ask(client, BLACK, PNG, parameters=parameters).get_response()["parameters"]
    assert [one["truncated"] for one in json.loads(said["images"])] == [False, True]
    assert said["truncated"] is True
    assert ask(client, BLACK, parameters=parameters).get_response()["parameters"]["truncated"] is False


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"score_threshold": 0.4}, id="threshold"),
        pytest.param({"max_detections": 2}, id="the best two"),
        pytest.param({"max_detections": 2.0}, id="the best two from a client that writes 2.0"),
        pytest.param({"labels": ["circle", "square"], "score_threshold": 0.0}, id="labels"),
        pytest.param({"labels": "square, circle", "score_threshold": 0.0}, id="labels in one string"),
        pytest.param({"labels": LABELS[1]}, id="a label with a comma"),
    ],
)
def test_parameters_mean_what_they_mean_to_predict(
    client: triton.InferenceServerClient, server: Server, parameters: dict[str, Any]
) -> None:
    found = server.predict(PNG, **parameters).json()
    assert 0 < len(found["scores"]) < len(server.predict(PNG, score_threshold=0).json()["scores"])
    check_same(ask(client, PNG, parameters=parameters), [found])


def test_masks_can_be_left_out(client: triton.InferenceServerClient) -> None:
    result = ask(client, PNG, parameters={"masks": "none"})
    assert tuple(output["name"] for output in result.get_response()["outputs"]) == OUTPUTS[:-1]


@pytest.mark.parametrize(("level", "priority"), [(0, "interactive"), (1, "interactive"), (2, "bulk")])
def test_the_priority_is_one_of_the_servers_two(
    client: triton.InferenceServerClient, server: Server, level: int, priority: str
) -> None:
    identifier = f"priority-{level}"
    ask(client, PNG, priority=level, headers={"X-Request-ID": identifier})

    def lines() -> list[dict[str, Any]]:
        return [line for line in map(json.loads, server.log) if line.get("request_id") == identifier]

    until(lambda: bool(lines()))
    assert [line["priority"] for line in lines()] == [priority]


def test_the_timeout_is_in_microseconds(client: triton.InferenceServerClient) -> None:
    ask(client, PNG, timeout=30_000_000)
    with pytest.raises(InferenceServerException, match="deadline") as caught:
        ask(client, PNG, timeout=1)
    assert caught.value.status() == "504"


@pytest.mark.parametrize("response", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
def test_bodies_may_be_compressed(
    client: triton.InferenceServerClient, server: Server, request_: str | None, response: str | None
) -> None:
    packing = {"request_compression_algorithm": request_, "response_compression_algorithm": response}
    for binary in (True, False):  # the header length counts what is unpacked
        check_same(ask(client, *IMAGES, binary=binary, **packing), [server.predict(image).json() for image in IMAGES])


def test_a_large_answer_comes_compressed_when_the_client_accepts_gzip(server: Server) -> None:
    data = [base64.b64encode(image).decode() for image in IMAGES]
    body = {"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [len(data)], "data": data}]}
    packed = server.client.post("/v2/models/probe/infer", json=body)
    plain = server.client.post("/v2/models/probe/infer", json=body, headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert "Accept-Encoding" in packed.headers["vary"]
    assert "Accept-Encoding" in plain.headers["vary"]
    assert packed.content == plain.content
    assert int(packed.headers["content-length"]) < len(plain.content)


def test_many_requests_at_once_get_their_own_answers(client: triton.InferenceServerClient, server: Server) -> None:
    waiting = [
        client.async_infer("probe", [image_input(image)], request_id=f"{n}") for n, image in enumerate(IMAGES * 3)
    ]
    for n, (image, one) in enumerate(zip(IMAGES * 3, waiting, strict=True)):
        result = one.get_result(timeout=PATIENCE)
        assert result.get_response()["id"] == f"{n}"
        check_same(result, [server.predict(image).json()])


def test_a_body_without_json_is_one_image(server: Server) -> None:
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    response = server.client.post("/v2/models/probe/infer", content=PNG, headers=headers)
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["Inference-Header-Content-Length"])
    result = triton.InferenceServerClient.parse_response_body(response.content, header_length=length)
    assert tuple(output["name"] for output in result.get_response()["outputs"]) == OUTPUTS
    check_same(result, [server.predict(PNG).json()])


# --- what fails


@pytest.mark.parametrize(
    ("images", "options", "status", "words"),
    [
        pytest.param([PNG, PNG[: len(PNG) // 2]], {}, "400", "cut short", id="a damaged image among good ones"),
        pytest.param([b"no image"], {}, "400", "no known image format", id="no image"),
        pytest.param([b"<svg xmlns='http://www.w3.org/2000/svg'/>"], {}, "415", "SVG", id="a format that is not read"),
        pytest.param([PNG] * 17, {}, "400", "send 1 to 16", id="too many images"),
        pytest.param([bytes(200_000)], {}, "413", "200000 bytes", id="too many bytes"),
        pytest.param([PNG], {"parameters": {"labels": ["nose"]}}, "422", "'ring, broken'", id="an unknown label"),
        pytest.param([PNG], {"parameters": {"threshold": 0.5}}, "422", "'threshold'", id="an unknown parameter"),
        pytest.param([PNG], {"model_version": "2"}, "404", "probe/2", id="an unknown version"),
        pytest.param(
            [PNG], {"model_version": "x"}, "422", "version: should be a valid integer", id="a version that is no number"
        ),
        pytest.param([encode(picture(fail=True))], {}, "500", "unexpected", id="an engine that fails"),
    ],
)
def test_the_client_raises_with_the_servers_words(
    client: triton.InferenceServerClient, images: list[bytes], options: dict[str, Any], status: str, words: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        ask(client, *images, **options)
    assert caught.value.status() == status
    assert words in caught.value.message()
    ask(client, PNG)  # and the server goes on


def test_an_unknown_model_is_answered_with_those_there_are(client: triton.InferenceServerClient) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: client.infer("nuclei", [image_input(PNG)]),
        lambda: client.get_model_metadata("nuclei"),
        lambda: client.unload_model("nuclei"),
        lambda: client.load_model("nuclei"),
    )
    for call in calls:
        with pytest.raises(InferenceServerException, match=r"no model nuclei.*probe") as caught:
            call()
        assert caught.value.status() == "404"


def test_an_extension_that_is_not_there_says_so(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="/v2/systemsharedmemory/status: not found") as caught:
        client.get_system_shared_memory_status()
    assert caught.value.status() == "404"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("GET", "/v2/models/nuclei", 404, id="an unknown model"),
        pytest.param("GET", "/v2/models/probe/versions/x", 422, id="a version that is no number"),
        pytest.param("GET", "/v2/nothing", 404, id="an unknown path"),
        pytest.param("GET", "/v2/models/probe/infer", 405, id="a wrong method"),
        pytest.param("POST", "/v2/models/probe/infer", 400, id="an empty body"),
    ],
)
def test_every_error_has_the_member_error(server: Server, method: str, path: str, status: int) -> None:
    response = server.client.request(method, path)
    assert response.status_code == status
    assert error_of(response)


def test_the_member_error_is_only_for_this_protocol(server: Server) -> None:
    assert "error" not in server.client.get("/models/nuclei").json()


# --- loading and unloading
