"""Requests of the Open Inference Protocol, by Triton's client and by hand."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from model.architecture import ArchitectureConfig
from service.http.problems import Problem
from service.routes.v2.schemas import output_tensors
from service.routes.v2.tensors import (
    InferRequest,
    parse_infer_request,
)

MASK_OUTPUTS = output_tensors(ArchitectureConfig(task="masks"))
NAMES = [tensor.name for tensor in MASK_OUTPUTS]
WITHOUT_MASKS = [name for name in NAMES if name != "MASKS"]
MAX_IMAGES = 4
IMAGES = (bytes(range(256)) * 3, b"", b"\xff\xd8\xff")


def parse(body: bytes, header_length: int | None = None) -> InferRequest:
    return parse_infer_request(body, header_length, output_names=NAMES, max_images=MAX_IMAGES)


def refused(body: bytes, header_length: int | None = None) -> Problem:
    with pytest.raises(Problem) as caught:
        parse(body, header_length)
    return caught.value


def client_input(images: Sequence[bytes], *, binary: bool = True, column: bool = False) -> triton.InferInput:
    elements = images if binary else [base64.b64encode(image).decode() for image in images]
    array = np.array([*elements, None], np.object_)[:-1]
    array = array.reshape(-1, 1) if column else array
    return triton.InferInput("IMAGE", list(array.shape), "BYTES").set_data_from_numpy(array, binary_data=binary)


def encoded(*images: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


def tensor(**members: Any) -> dict[str, Any]:
    """IMAGE with one image in JSON; a member of None is left out."""
    whole = {"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": ["AAEC"], **members}
    return {name: value for name, value in whole.items() if value is not None}


def body(**members: Any) -> bytes:
    return json.dumps({"inputs": [tensor()], **members}).encode()


def binary_body(data: bytes, shape: Any = (1,), size: Any = None) -> tuple[bytes, int]:
    size = len(data) if size is None else size
    header = body(inputs=[tensor(shape=shape, data=None, parameters={"binary_data_size": size})])
    return header + data, len(header)


# --- requests of Triton's client
