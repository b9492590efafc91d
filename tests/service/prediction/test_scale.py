"""Pictures resized as a request asks, by the embedded model: the same objects, in pixels of the picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.runtime.bundles.repository import EMBEDDED, Repository
from model.runtime.images.decode import load_image
from service.client.prediction import Prediction
from tests.service.harness import Server, encode, picture


@pytest.fixture(scope="module")
def nuclei() -> Iterator[Server]:
    server = Server.start(EMBEDDED, "--max-picture-pixels", "14000000")
    yield server
    server.close()


@pytest.fixture(scope="module")
def whole() -> NDArray[np.uint8]:
    return load_image(EMBEDDED.parent / "samples" / "nuclei" / "fluorescence.png")


@pytest.fixture(scope="module")
def sample(whole: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A part of it, where enough objects are."""
    return np.ascontiguousarray(whole[:272, :352])


def enlarged(arrays: NDArray[Any]) -> NDArray[Any]:
    """[N, H, W, ...] with each pixel four times."""
    return arrays.repeat(2, axis=1).repeat(2, axis=2)


@pytest.fixture(scope="module")
def twice(sample: NDArray[np.uint8]) -> bytes:
    return encode(enlarged(sample[None])[0])


@pytest.fixture(scope="module")
def original(nuclei: Server, sample: NDArray[np.uint8]) -> Prediction:
    return asked(nuclei, encode(sample), scale=1, score_threshold=0.9)


def asked(server: Server, image: bytes, **query: Any) -> Prediction:
    answer = server.predict(image, **query)
    assert answer.status_code == 200, answer.text
    return Prediction.from_json(answer.json())


def require_same(original: Prediction, found: Prediction) -> None:
    """Each object of the original is in the one twice as large, and is as large there as in the picture."""
    assert (found.width, found.height) == (2 * original.width, 2 * original.height)
    masks = found.masks_array().reshape(len(found), -1).astype(np.float32)
    wanted = enlarged(original.masks_array()).reshape(len(original), -1).astype(np.float32)
    common = wanted @ masks.T
    ious = common / (wanted.sum(1)[:, None] + masks.sum(1) - common)
    assert len(original) > 10
    assert ious.max(1).min() >= 0.8


def diameter_of_twice() -> float:
    trained = Repository(EMBEDDED).latest("nuclei").manifest.object_diameter
    assert trained is not None
    return 2 * trained


@pytest.mark.parametrize("wish", ["scale", "object_diameter"])
def test_a_picture_twice_as_large_has_the_same_objects(
    nuclei: Server, original: Prediction, twice: bytes, wish: str
) -> None:
    query = {"scale": 0.5} if wish == "scale" else {"object_diameter": diameter_of_twice()}
    found = asked(nuclei, twice, **query, score_threshold=0.5)
    assert found.scale == 0.5
    assert "tiles" not in found.json["image"]
    require_same(original, found)


def test_so_it_has_in_tiles(nuclei: Server, original: Prediction, twice: bytes) -> None:
    found = asked(nuclei, twice, scale=0.5, tile=192, overlap=96, score_threshold=0.5)
    assert found.json["image"]["tiles"] > 1
    require_same(original, found)


def test_auto_cuts_tiles_at_the_scale(nuclei: Server, whole: NDArray[np.uint8]) -> None:
    """What is longer than max_size at it; without one the picture is seen whole."""
    found = asked(nuclei, encode(whole[:40]), scale=3)
    assert found.json["image"]["tiles"] > 1
    assert "scale" not in asked(nuclei, encode(whole[:40])).json["image"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"scale": 6, "tile": "off"}, "(max_size)"),
        ({"scale": 6, "tile": 1530}, "(max_size)"),
        ({"scale": 20}, "14000000 are seen (max_picture_pixels)"),
        ({"object_diameter": 0.5}, "it may be 0.05 to 20"),
        ({"object_diameter": 9999}, "it may be 0.05 to 20"),
        ({"scale": 0.5, "object_diameter": 10}, "object_diameter: contradicts scale"),
        ({"scale": 0.04}, "greater than or equal to 0.05"),
        ({"scale": 21}, "less than or equal to 20"),
        ({"scale": "nan"}, "scale"),
        ({"object_diameter": 0}, "greater than 0"),
    ],
)
def test_what_cannot_be_seen_so_is_refused(
    nuclei: Server, whole: NDArray[np.uint8], query: dict[str, Any], said: str
) -> None:
    refused = nuclei.predict(encode(whole), **query)
    assert refused.status_code == 422, refused.text
    assert said in refused.json()["detail"]


def test_a_model_must_know_its_objects_to_be_asked_by_diameter(server: Server) -> None:
    refused = server.predict(encode(picture()), object_diameter=20)
    assert refused.status_code == 422
    assert "does not say how large objects were in its training; give scale" in refused.json()["detail"]
    assert server.predict(encode(picture()), scale=0.5).json()["image"]["scale"] == 0.5
