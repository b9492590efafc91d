"""The Open Inference Protocol's bodies, against Triton's own client and against what no client should send."""

from __future__ import annotations

from typing import Any

import pytest
import tritonclient.http as triton

from service.http.problems import BAD_TENSORS, INVALID_PARAMETER, Problem
from service.routes.v2.schemas import MAX_LABELS_LENGTH
from service.routes.v2.tensors import (
    RequestedOutput,
    parse_header_length,
)
from service.scheduling.priority import Priority
from tests.service.routes.v2.inference_requests import (
    IMAGES,
    NAMES,
    WITHOUT_MASKS,
    binary_body,
    body,
    client_input,
    encoded,
    parse,
    refused,
    tensor,
)


@pytest.mark.parametrize("column", [False, True], ids=["shape [N]", "shape [N, 1]"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("count", [1, 3])
def test_the_images_of_tritons_client_arrive(count: int, binary: bool, column: bool) -> None:
    images = IMAGES[:count]
    made = triton.InferenceServerClient.generate_request_body([client_input(images, binary=binary, column=column)])
    assert (made[1] is not None) == binary
    request = parse(*made)
    assert request.images == images
    assert request.id is None


def test_tritons_client_gets_all_outputs_binary_unless_it_names_some() -> None:
    made = triton.InferenceServerClient.generate_request_body([client_input(IMAGES)])
    assert parse(*made).outputs == tuple(RequestedOutput(name, True) for name in NAMES)


def test_the_outputs_that_tritons_client_names_keep_its_order_and_form() -> None:
    outputs = [triton.InferRequestedOutput("SCORES", binary_data=False), triton.InferRequestedOutput("BOXES")]
    request = parse(*triton.InferenceServerClient.generate_request_body([client_input(IMAGES)], outputs))
    assert request.outputs == (RequestedOutput("SCORES", False), RequestedOutput("BOXES", True))
    assert request.parameters.masks == "none"  # nobody would see them


def test_the_parameters_of_tritons_client_arrive() -> None:
    request = parse(
        *triton.InferenceServerClient.generate_request_body(
            [client_input(IMAGES)],
            request_id="42 µ",
            priority=2,
            timeout=1_500_000,
            parameters={"score_threshold": 0.25, "max_detections": 7, "labels": "a,b", "masks": "none"},
        )
    )
    assert request.id == "42 µ"
    parameters = request.parameters
    assert (parameters.score_threshold, parameters.max_detections, parameters.labels) == (0.25, 7, ["a,b"])
    assert (parameters.priority, parameters.timeout, parameters.timeout_seconds) == (Priority.BULK, 1_500_000, 1.5)
    assert [output.name for output in request.outputs] == WITHOUT_MASKS


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        pytest.param({"sequence_id": 7, "sequence_start": True}, "'sequence_id'", id="a sequence"),
        pytest.param(
            {"outputs": [triton.InferRequestedOutput("SCORES", class_count=3)]},
            "'classification'",
            id="a classification",
        ),
    ],
)
def test_what_tritons_client_asks_for_and_this_server_cannot_do_is_refused(asked: dict[str, Any], named: str) -> None:
    made = triton.InferenceServerClient.generate_request_body([client_input(IMAGES)], **asked)
    problem = refused(*made)
    assert problem.kind == INVALID_PARAMETER
    assert named in problem.detail


def test_shared_memory_is_refused() -> None:
    image = triton.InferInput("IMAGE", [1], "BYTES")
    image.set_shared_memory("region", 64)
    problem = refused(*triton.InferenceServerClient.generate_request_body([image]))
    assert problem.kind == INVALID_PARAMETER
    assert "'shared_memory_region'" in problem.detail


# --- requests of others


def test_a_header_length_of_zero_makes_the_body_one_image_and_all_outputs_binary() -> None:
    request = parse(IMAGES[0], 0)
    assert request.images == IMAGES[:1]
    assert request.outputs == tuple(RequestedOutput(name, True) for name in NAMES)


def test_without_a_word_about_them_outputs_are_json() -> None:
    assert parse(body()).outputs == tuple(RequestedOutput(name, False) for name in NAMES)


def test_an_output_may_differ_from_binary_data_output() -> None:
    outputs = [{"name": "BOXES"}, {"name": "MASKS", "parameters": {"binary_data": False}}]
    request = parse(body(outputs=outputs, parameters={"binary_data_output": True}))
    assert request.outputs == (RequestedOutput("BOXES", True), RequestedOutput("MASKS", False))
    assert request.parameters.masks == "rle"


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"model_name": "nuclei"}, id="a member that means nothing here"),
        pytest.param({"id": None, "parameters": None, "outputs": None}, id="null for what is left out"),
        pytest.param({"outputs": [], "parameters": {}}, id="empty for what is left out"),
        pytest.param({"parameters": {"labels": None, "priority": None}}, id="null for parameters that are left out"),
        pytest.param({"inputs": [tensor(parameters={"content_type": "base64"})]}, id="base64 as MLServer marks it"),
        pytest.param({"inputs": [tensor(shape=[1, 1], data=[["AAEC"]])]}, id="nested data"),
        pytest.param({"inputs": [tensor(shape=[1, 1])]}, id="flat data of a nested shape"),
    ],
)
def test_harmless_variants_are_read(members: dict[str, Any]) -> None:
    request = parse(body(**members))
    assert request.images == (b"\0\1\2",)
    assert request.outputs == tuple(RequestedOutput(name, False) for name in NAMES)


def test_a_header_length_is_fine_when_all_is_json() -> None:
    assert parse(body(), len(body())).images == (b"\0\1\2",)


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        *((level, Priority.INTERACTIVE) for level in (0, 1, "interactive")),
        *((level, Priority.BULK) for level in (2, 2**63, "bulk")),
    ],
)
def test_priorities_have_names_and_tritons_levels(level: int | str, priority: Priority) -> None:
    assert parse(body(parameters={"priority": level})).parameters.priority is priority


def test_labels_may_be_a_list() -> None:
    assert parse(body(parameters={"labels": ["a", "b, c"]})).parameters.labels == ["a", "b, c"]


def test_a_timeout_of_zero_is_the_servers_own() -> None:
    assert parse(body(parameters={"timeout": 0})).parameters.timeout_seconds is None


BAD_PARAMETERS = [
    pytest.param({"score_treshold": 0.5}, "no 'score_treshold'", id="misspelled"),
    pytest.param({"model": "other"}, "no 'model'", id="the model, which is in the URL"),
    pytest.param({str(n): 0 for n in range(1000)}, "and more", id="a thousand unknown ones"),
    pytest.param({"score_threshold": 1.5}, "score_threshold: should be less", id="threshold above 1"),
    pytest.param({"score_threshold": "0.5"}, "score_threshold: should be", id="threshold as a string"),
    pytest.param({"score_threshold": True}, "score_threshold: should be", id="threshold as a boolean"),
    pytest.param({"max_detections": 0}, "max_detections: should be greater", id="no detections"),
    pytest.param({"max_detections": 1.5}, "max_detections: should be", id="one and a half detections"),
    pytest.param({"labels": 3}, "labels: should be a list", id="labels as a number"),
    pytest.param({"labels": ["a"] + [0] * 100_000}, "labels: should be a list", id="labels of numbers"),
    pytest.param({"labels": "x" * (MAX_LABELS_LENGTH + 1)}, "labels: should have at most", id="labels too long"),
    pytest.param({"labels": [""] * (MAX_LABELS_LENGTH + 1)}, "labels: should have at most", id="too many labels"),
    pytest.param({"masks": "polygon"}, "masks: should be 'rle' or 'none'", id="masks that are no tensor"),
    pytest.param({"priority": "high"}, "priority: should be", id="unknown priority"),
    pytest.param({"priority": -1}, "priority: should be", id="negative priority"),
    pytest.param({"priority": True}, "priority: should be", id="priority as a boolean"),
    pytest.param({"timeout": -1}, "timeout: should be greater", id="negative timeout"),
    pytest.param({"timeout": 0.5}, "timeout: should be", id="timeout in seconds"),
    pytest.param({"timeout": 2**63}, "timeout: should be less", id="timeout beyond 64 bits"),
    pytest.param({"binary_data_output": 1}, "binary_data_output: should be", id="flag as a number"),
]


@pytest.mark.parametrize(("parameters", "message"), BAD_PARAMETERS)
def test_a_wrong_parameter_is_refused_by_name(parameters: dict[str, Any], message: str) -> None:
    problem = refused(body(parameters=parameters))
    assert problem.kind == INVALID_PARAMETER
    assert message in problem.detail
    assert len(problem.detail) < 500


def test_every_wrong_parameter_is_listed() -> None:
    problem = refused(body(parameters={"score_threshold": 2, "timeout": -1}))
    assert [error["parameter"] for error in problem.extra["errors"]] == ["score_threshold", "timeout"]


def test_masks_cannot_be_asked_for_and_left_out() -> None:
    problem = refused(body(outputs=[{"name": "MASKS"}], parameters={"masks": "none"}))
    assert problem.kind == INVALID_PARAMETER
    assert "MASKS" in problem.detail


BAD_DOCUMENTS = [
    pytest.param(b"", "does not begin with the JSON", id="nothing"),
    pytest.param(b"\xff\xd8\xff", "Inference-Header-Content-Length", id="an image"),
    pytest.param(body()[:-1], "does not begin with the JSON", id="cut short"),
    pytest.param(body() + encoded(b"1"), "Inference-Header-Content-Length", id="binary data without the header"),
    pytest.param(b'{"inputs": ' + b"[" * 100_000, "does not begin with the JSON", id="deeply nested"),
    pytest.param(b'{"inputs": [' + b"[]," * 100_001 + b"1]}", "more than 200000 values", id="very many values"),
    pytest.param(b"[]", "must be a JSON object", id="an array"),
    pytest.param(b'"' + b"x" * 100_000 + b'"', "must be a JSON object", id="a long string"),
    pytest.param(body(id={str(n): [n] for n in range(1000)}), "id is {...}; it must be", id="an id as a big object"),
    pytest.param(b'{"id": "\\ud800"}', "does not begin with the JSON", id="half a surrogate pair"),
    pytest.param(body(id=42), "id is 42; it must be a string", id="an id that is a number"),
    pytest.param(body(parameters=[]), "parameters is []; it must be an object", id="parameters as an array"),
    pytest.param(body(outputs={}), "outputs is {}; it must be an array", id="outputs as an object"),
    pytest.param(body(outputs=["BOXES"]), "outputs[0] is 'BOXES'", id="an output as a string"),
    pytest.param(body(outputs=[{}]), "outputs[0]: there is no output None", id="an output without a name"),
    pytest.param(body(outputs=[{"name": []}]), "outputs[0].name is []", id="an output with an odd name"),
    pytest.param(body(outputs=[{"name": "KEYPOINTS"}]), "no output 'KEYPOINTS'", id="an output of other models"),
    pytest.param(body(outputs=[{"name": "BOXES"}] * 2), "BOXES is asked for twice", id="an output twice"),
    pytest.param(
        body(outputs=[{"name": "BOXES", "parameters": {"binary_data": 1}}]),
        "outputs[0].parameters.binary_data is 1; it must be true or false",
        id="binary_data as a number",
    ),
    pytest.param(b"{}", "inputs has 0 tensors", id="no inputs"),
    pytest.param(body(inputs=[]), "inputs has 0 tensors", id="empty inputs"),
    pytest.param(body(inputs={}), "inputs is {}; it must be an array", id="inputs as an object"),
    pytest.param(body(inputs=[tensor()] * 2), "inputs has 2 tensors", id="the input twice"),
    pytest.param(body(inputs=[3]), "inputs[0] is 3", id="an input that is a number"),
    pytest.param(body(inputs=[tensor(name="image")]), "no input 'image'; name it IMAGE", id="an unknown input"),
    pytest.param(body(inputs=[tensor(name=["IMAGE"])]), "no input ['IMAGE']", id="a name that is an array"),
    pytest.param(body(inputs=[tensor(datatype="UINT8")]), "IMAGE: datatype is 'UINT8'", id="pixels"),
    pytest.param(body(inputs=[tensor(datatype=None)]), "IMAGE: datatype is None", id="no datatype"),
    pytest.param(body(inputs=[tensor(shape=None)]), "IMAGE: shape is []", id="no shape"),
    pytest.param(body(inputs=[tensor(shape=1)]), "IMAGE.shape is 1", id="a shape that is a number"),
    pytest.param(body(inputs=[tensor(shape=[])]), "IMAGE: shape is []", id="a scalar"),
    pytest.param(body(inputs=[tensor(shape=[-1])]), "means -1 images; send 1 to 4", id="a negative shape"),
    pytest.param(body(inputs=[tensor(shape=[0], data=[])]), "means 0 images", id="no images"),
    pytest.param(body(inputs=[tensor(shape=[5], data=["AAEC"] * 5)]), "means 5 images", id="too many images"),
    pytest.param(body(inputs=[tensor(shape=[2**62])]), "send 1 to 4", id="a huge shape"),
    pytest.param(body(inputs=[tensor(shape=[2**80])]), "IMAGE: shape is [1.2", id="a shape beyond 64 bits"),
    pytest.param(body(inputs=[tensor(shape=[True])]), "IMAGE: shape is [True]", id="a shape of booleans"),
    pytest.param(body(inputs=[tensor(shape=[1, 2])]), "it must be [N] or [N, 1]", id="two images a row"),
    pytest.param(body(inputs=[tensor(shape=[-1, -1])]), "it must be [N] or [N, 1]", id="two negative lengths"),
    pytest.param(body(inputs=[tensor(shape=[1, 1, 1])]), "it must be [N] or [N, 1]", id="three dimensions"),
    pytest.param(body(inputs=[tensor(data=None)]), "send its images either", id="no data"),
    pytest.param(body(inputs=[tensor(data="AAEC")]), "IMAGE.data is 'AAEC'; it must be an array", id="bare data"),
    pytest.param(body(inputs=[tensor(shape=[2])]), "data has 1 elements, but shape is [2]", id="too little data"),
    pytest.param(body(inputs=[tensor(data=["AAEC"] * 2)]), "data has 2 elements", id="too much data"),
    pytest.param(body(inputs=[tensor(data=[["AAEC"]])]), "data[0] is ['AAEC']", id="nested more than the shape"),
    pytest.param(body(inputs=[tensor(shape=[1, 1], data=[["AAEC"] * 2])]), "data[0] is", id="a row of two"),
    pytest.param(body(inputs=[tensor(data=[7])]), "data[0] is 7; it must be a string", id="an element as a number"),
    pytest.param(body(inputs=[tensor(data=["AAE"])]), "data[0] is not base64", id="base64 without padding"),
    pytest.param(body(inputs=[tensor(data=["AA\nEC"])]), "data[0] is not base64", id="base64 in lines"),
    pytest.param(body(inputs=[tensor(data=["-_-_"])]), "data[0] is not base64", id="base64 for URLs"),
    pytest.param(body(inputs=[tensor(data=["\u00ff\u00d8"])]), "data[0] is not base64", id="bytes as characters"),
    pytest.param(
        body(inputs=[tensor(data=["data:image/png;base64,AAEC"])]), "without line breaks or a data:", id="a data URL"
    ),
    pytest.param(
        body(inputs=[tensor(parameters={"binary_data_size": 3})]), "send its images either", id="data and binary data"
    ),
    pytest.param(
        body(inputs=[tensor(parameters={"content_type": "str"})]), "content_type is 'str'", id="another encoding"
    ),
    pytest.param(
        body(inputs=[tensor(data=None, parameters={"binary_data_size": 0})]),
        "no header Inference-Header-Content-Length",
        id="binary data announced without the header",
    ),
]


@pytest.mark.parametrize(("document", "message"), BAD_DOCUMENTS)
def test_a_request_that_makes_no_sense_is_refused(document: bytes, message: str) -> None:
    problem = refused(document)
    assert problem.kind == BAD_TENSORS
    assert message in problem.detail
    assert len(problem.detail) < 500


ONE = encoded(b"abc")
BAD_BINARIES = [
    pytest.param(*binary_body(ONE, size=len(ONE) - 1), "binary_data_size is 6, but 7 bytes", id="size too small"),
    pytest.param(*binary_body(ONE, size=len(ONE) + 1), "binary_data_size is 8, but 7 bytes", id="size too large"),
    pytest.param(*binary_body(ONE, size=-7), "binary_data_size is -7", id="negative size"),
    pytest.param(*binary_body(ONE, size=7.0), "binary_data_size is 7.0", id="size as a float"),
    pytest.param(*binary_body(b"", size=False), "binary_data_size is False", id="size as a boolean"),
    pytest.param(*binary_body(ONE, size=2**63), "binary_data_size is 92", id="size of 63 bits"),
    pytest.param(*binary_body(b""), "image 0 of 1 has no length", id="no data"),
    pytest.param(*binary_body(b"\0\0\0"), "image 0 of 1 has no length", id="part of a length"),
    pytest.param(*binary_body(ONE, [2]), "image 1 of 2 has no length", id="an image less than the shape says"),
    pytest.param(*binary_body(ONE[:-1]), "should have 3 bytes, but 2 are left", id="a truncated image"),
    pytest.param(*binary_body(b"\xff" * 8), "should have 4294967295 bytes, but 4", id="the largest length"),
    pytest.param(*binary_body(b"\0\0\0\3abc"), "should have 50331648 bytes", id="a big-endian length"),
    pytest.param(*binary_body(ONE + b"\0"), "1 bytes are left after its 1 images", id="a trailing byte"),
    pytest.param(*binary_body(ONE + ONE), "7 bytes are left after its 1 images", id="an image more than the shape"),
    pytest.param(body() + ONE, len(body()), "7 bytes follow the JSON, but IMAGE has data", id="both"),
    pytest.param(body(), len(body()) + 1, "but the body has", id="a header longer than the body"),
    pytest.param(body(), 2**62, "but the body has", id="a huge header length"),
    pytest.param(body(), -1, "but the body has", id="a negative header length"),
    pytest.param(body(), len(body()) - 1, "does not begin with the JSON", id="a header length inside the JSON"),
    pytest.param(body() + b"\0", len(body()) + 1, "does not begin with the JSON", id="a header length past the JSON"),
]


@pytest.mark.parametrize(("whole", "header_length", "message"), BAD_BINARIES)
def test_binary_data_that_does_not_fit_is_refused(whole: bytes, header_length: int, message: str) -> None:
    problem = refused(whole, header_length)
    assert problem.kind == BAD_TENSORS
    assert message in problem.detail
    assert len(problem.detail) < 500


def test_the_header_length_is_a_plain_number() -> None:
    assert parse_header_length(None) is None
    assert parse_header_length("0") == 0
    assert parse_header_length("0120") == 120
    for value in ("", "-1", "+1", "1.0", "0x10", "1_0", " 1", "\u0661", "\u00b2", "9" * 10_000):
        with pytest.raises(Problem, match="Inference-Header-Content-Length"):
            parse_header_length(value)


# --- responses
