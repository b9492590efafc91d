"""Triton's client at a real server, and what its answers must equal."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import tritonclient.http as triton
from numpy.typing import NDArray

from tests.service.harness import Server, encode, picture

OUTPUTS = ("BOXES", "SCORES", "LABELS", "LABEL_IDS", "IMAGE_INDEX", "IMAGE_SIZES", "MASKS")
PNG = encode(picture(1))
BLACK = encode(np.zeros((80, 64, 3), np.uint8))
"""All of its scores are below 0.5."""
# Sizes and formats of their own, and one in the middle without a detection that scores more than 0.5.
IMAGES = (encode(picture(2, (64, 90))), BLACK, encode(picture(3, (200, 120)), "JPEG"), encode(picture(4)))


def connect(server: Server, **options: Any) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(server.url.removeprefix("http://"), **options)


def image_input(*images: bytes, binary: bool = True) -> triton.InferInput:
    elements = images if binary else [base64.b64encode(image).decode() for image in images]
    array = np.empty(len(images), np.object_)
    array[:] = elements
    return triton.InferInput("IMAGE", [len(images)], "BYTES").set_data_from_numpy(array, binary_data=binary)


def ask(
    client: triton.InferenceServerClient, *images: bytes, binary: bool = True, **options: Any
) -> triton.InferResult:
    return client.infer("probe", [image_input(*images, binary=binary)], **options)


def texts(result: triton.InferResult, name: str) -> list[str]:
    """A BYTES output, which comes as bytes or, in JSON, as strings."""
    return [text.decode() if isinstance(text, bytes) else text for text in result.as_numpy(name)]


def check_same(result: triton.InferResult, answers: Sequence[dict[str, Any]]) -> None:
    """The outputs must be, to the bit, what POST /predict answered for each of the images."""
    index = result.as_numpy("IMAGE_INDEX").astype(np.int64)
    counts = [len(answer["scores"]) for answer in answers]
    assert index.tolist() == np.repeat(np.arange(len(answers)), counts).tolist()
    sizes = [[answer["image"]["height"], answer["image"]["width"]] for answer in answers]
    assert result.as_numpy("IMAGE_SIZES").tolist() == sizes

    def joined(column: str) -> list[Any]:
        return [value for answer in answers for value in answer[column]]

    def as_float32(column: str, *shape: int) -> NDArray[np.float32]:
        return np.array(joined(column), np.float32).reshape(shape)

    assert np.array_equal(result.as_numpy("BOXES"), as_float32("boxes", -1, 4))
    assert np.array_equal(result.as_numpy("SCORES"), as_float32("scores", -1))
    assert result.as_numpy("LABEL_IDS").tolist() == joined("label_ids")
    assert texts(result, "LABELS") == joined("labels")
    assert texts(result, "MASKS") == [mask["counts"] for mask in joined("masks")]


def error_of(response: httpx.Response) -> str:
    """Where the protocol's clients look for it; the rest is a problem as everywhere."""
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["error"] == document["detail"]
    return str(document["error"])


# --- server and models
