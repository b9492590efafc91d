"""Answers of the Open Inference Protocol as Triton's client reads them, and whatever bytes a client may send."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from model.architecture import ArchitectureConfig
from service.http.problems import BAD_TENSORS, INVALID_PARAMETER, Problem, ProblemKind
from service.routes.v2.schemas import InferResponseParameters, TensorMetadata, output_tensors
from service.routes.v2.tensors import (
    InferRequest,
    RequestedOutput,
    Tensor,
    render_infer_response,
)
from tests.service.routes.v2.inference_requests import (
    IMAGES,
    MASK_OUTPUTS,
    MAX_IMAGES,
    body,
    encoded,
    parse,
    tensor,
)

SAID = InferResponseParameters(precision="f32", truncated=False, images="[]")


def random_tensor(expected: TensorMetadata, detections: int, images: int, rng: np.random.Generator) -> Tensor:
    rows = images if expected.name == "IMAGE_SIZES" else detections
    if expected.datatype == "BYTES":
        texts = ["nucleus", "", "ø→\U0001f52c", 'a"\\b', "X52c0?n1"]
        return Tensor(expected.name, "BYTES", [texts[n % len(texts)].encode() for n in range(rows)])
    shape = (rows, *expected.shape[1:])
    if expected.datatype == "FP32":
        return Tensor(expected.name, "FP32", rng.normal(0, 1e3, shape).astype(np.float32))
    return Tensor(expected.name, "INT64", rng.integers(-(2**63), 2**63 - 1, shape, np.int64))


def check_with_tritons_client(request: InferRequest, tensors: Sequence[Tensor]) -> None:
    """Triton's client must read from the response exactly what is in `tensors`."""
    response, header_length = render_infer_response(request, "nuclei", "3", SAID, tensors)
    assert (header_length is not None) == any(output.binary for output in request.outputs)
    result = triton.InferenceServerClient.parse_response_body(response, header_length=header_length)
    document = result.get_response()
    assert (document["model_name"], document["model_version"], document.get("id")) == ("nuclei", "3", request.id)
    assert [output["name"] for output in document["outputs"]] == [output.name for output in request.outputs]
    by_name = {tensor.name: tensor for tensor in tensors}
    for output in request.outputs:
        expected, got = by_name[output.name], result.as_numpy(output.name)
        assert got.shape == expected.shape
        if not isinstance(expected.data, np.ndarray):
            elements = got.tolist() if output.binary else [text.encode() for text in got]
            assert elements == list(expected.data)
        elif got.size or not output.binary:  # of no binary data the client makes float64
            assert got.dtype == expected.data.dtype
            assert np.array_equal(got, expected.data)


@pytest.mark.parametrize("binary", [True, False, None], ids=["binary", "JSON", "mixed"])
@pytest.mark.parametrize("detections", [0, 1, 23])
@pytest.mark.parametrize("task", ["boxes", "masks", "keypoints"])
def test_tritons_client_reads_every_output_exactly(task: Any, detections: int, binary: bool | None) -> None:
    rng = np.random.default_rng(7)
    metadata = output_tensors(ArchitectureConfig(task=task))
    tensors = [random_tensor(expected, detections, 2, rng) for expected in metadata]
    outputs = [
        RequestedOutput(expected.name, n % 2 == 0 if binary is None else binary) for n, expected in enumerate(metadata)
    ]
    rng.shuffle(outputs)
    request = InferRequest("id", IMAGES, parse(body()).parameters, tuple(outputs))
    check_with_tritons_client(request, tensors)


def test_arrays_in_any_layout_are_sent_row_by_row() -> None:
    boxes = Tensor("BOXES", "FP32", np.arange(24, dtype=">f4").reshape(4, 6).T)
    for binary in (True, False):
        request = InferRequest(None, IMAGES, parse(body()).parameters, (RequestedOutput("BOXES", binary),))
        response, header_length = render_infer_response(request, "m", "1", SAID, [boxes])
        result = triton.InferenceServerClient.parse_response_body(response, header_length=header_length)
        assert np.array_equal(result.as_numpy("BOXES"), boxes.data)
        assert "id" not in result.get_response()


def test_a_binary_output_without_a_byte_still_has_its_header_length() -> None:
    request = InferRequest(None, IMAGES, parse(body()).parameters, (RequestedOutput("LABELS", True),))
    response, header_length = render_infer_response(request, "m", "1", SAID, [Tensor("LABELS", "BYTES", [])])
    assert header_length == len(response)


# --- whatever comes


def mutated_bytes(whole: bytes, rng: random.Random) -> bytes:
    data = bytearray(whole)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.randint(0, 8))
        replacement = rng.choice([b"", rng.randbytes(rng.randint(1, 4)), bytes(data[start:end]) * 2])
        data[start:end] = replacement
    return bytes(data)


ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64 - 1, 1e300, 0.5, "", "AAEC", "IMAGE", "BOXES", "\0", "é" * 99),
    *([], {}, [1], ["AAEC"], [["AAEC"]], [[]], [{}], {"name": "BOXES"}, {"binary_data_size": 7}, [None, [None]]),
]
ONE = encoded(b"abc")
KEYS = [
    *("id", "inputs", "outputs", "parameters", "name", "shape", "datatype", "data", "binary_data_size", "binary_data"),
    *("labels", "masks", "priority", "timeout", "score_threshold", "max_detections", "binary_data_output", "", "x"),
]


def mutated_json(node: Any, rng: random.Random) -> Any:
    """A copy with one value, somewhere in it, replaced, added or removed."""
    if isinstance(node, list | dict) and node and rng.random() < 0.8:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        changed: Any = node.copy()
        changed[key] = mutated_json(node[key], rng)
        return changed
    if isinstance(node, dict) and rng.random() < 0.7:
        return {**node, rng.choice(KEYS): rng.choice(ODD_VALUES)}
    if isinstance(node, list) and rng.random() < 0.5:
        return [*node, rng.choice([*node, *ODD_VALUES])]
    return rng.choice(ODD_VALUES)


def read_or_refused(whole: bytes, header_length: int | None) -> InferRequest | Problem:
    try:
        return parse(whole, header_length)
    except Problem as problem:
        return problem


@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_is_read_or_refused_with_a_problem(seed: int) -> None:
    rng = random.Random(seed)
    parameters = {"score_threshold": 0.5, "labels": ["a", "b"], "priority": 1, "timeout": 5, "masks": "rle"}
    outputs = [{"name": "BOXES", "parameters": {"binary_data": True}}, {"name": "LABELS"}]
    binary_tensor = tensor(shape=[2], data=None, parameters={"binary_data_size": len(ONE) * 2})
    tensors = [random_tensor(expected, 2, 1, np.random.default_rng(seed)) for expected in MASK_OUTPUTS]
    seen: set[ProblemKind | None] = set()
    for _ in range(1500):
        is_binary = rng.random() < 0.5
        document: Any = {
            "id": "i",
            "inputs": [binary_tensor if is_binary else tensor(shape=[2, 1], data=[["AAEC"], ["AAEC"]])],
            "outputs": outputs,
            "parameters": parameters,
        }
        kind = rng.choice(["bytes", "json", "header length"])
        if kind == "json":
            for _ in range(rng.randint(1, 2)):
                document = mutated_json(document, rng)
        header = json.dumps(document).encode()
        whole, header_length = header + ONE * 2 * is_binary, len(header) if is_binary else None
        if kind == "bytes":
            whole = mutated_bytes(whole, rng)
        if kind == "header length" or rng.random() < 0.05:
            header_length = rng.choice([None, -1, 0, 1, len(header), len(whole), rng.randrange(len(whole) + 9)])
        answer = read_or_refused(whole, header_length)
        if isinstance(answer, Problem):
            assert len(answer.detail) < 1000
            seen.add(answer.kind)
        else:
            assert 1 <= len(answer.images) <= MAX_IMAGES
            assert all(type(image) is bytes for image in answer.images)
            check_with_tritons_client(answer, tensors)
            seen.add(None)
    assert seen == {None, BAD_TENSORS, INVALID_PARAMETER}
