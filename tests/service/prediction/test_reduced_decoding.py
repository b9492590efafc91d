"""A bundle may have large JPEGs decoded at reduced size; whoever asks for whatever form sees the same detections."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.decode import decode_image
from tests.service.harness import Server, encode, publish_probe

HEIGHT, WIDTH = 403, 602


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves `whole`, of a manifest as they were, and `reduced`."""
    folder = tmp_path_factory.mktemp("both")
    for name in ("whole", "reduced"):
        publish_probe(folder / "staging", folder / "models", name, reduced_decoding=name == "reduced")
    server = Server.start(folder / "models", "--model", "whole", "--engine-threads", "1")
    yield server
    server.close()


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """What the photograph decodes to."""
    return decode_image(photograph())


def photograph() -> bytes:
    """A JPEG of fine noise that is brighter to the right and below."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ground = np.stack([x * 150 // WIDTH, y * 150 // HEIGHT, (x + y) % 100], axis=2)
    image = (ground + generator.integers(0, 100, ground.shape)).astype(np.uint8)
    image[(y % 32 < 16) & (x % 32 < 16)] = 0  # where a tile may begin, so that nothing steers the probe
    return encode(image, "JPEG", quality=75, subsampling=0)


def ask(server: Server, model: str, data: bytes, **query: Any) -> dict[str, Any]:
    response = server.predict(data, model=model, **query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return {name: value for name, value in answer.items() if name not in ("model", "timing_ms")}


def test_a_bundle_of_before_answers_as_before(both: Server, pixels: NDArray[np.uint8]) -> None:
    assert ask(both, "whole", photograph()) == ask(both, "whole", encode(pixels))


def test_less_is_decoded_and_nearly_the_same_is_found(both: Server) -> None:
    whole, reduced = (ask(both, model, photograph()) for model in ("whole", "reduced"))
    assert reduced["scores"] != whole["scores"]
    np.testing.assert_allclose(reduced["scores"], whole["scores"], atol=2e-3)
    for name in whole.keys() - {"scores"}:  # the image's size, boxes and masks in its pixels
        assert reduced[name] == whole[name], name


@pytest.mark.parametrize(
    ("query", "in_full"),
    [
        ({"scale": 0.2}, False),
        ({"scale": 0.3}, True),  # by less than four
        ({"tile": 128, "overlap": 32}, True),
        ({"intensity": "min-max"}, True),
        ({"channels": "2,1,0"}, False),
    ],
    ids=str,
)
def test_what_a_request_asks_for_is_what_is_seen(both: Server, query: dict[str, Any], in_full: bool) -> None:
    whole, reduced = (ask(both, model, photograph(), **query) for model in ("whole", "reduced"))
    assert (reduced == whole) is in_full
    assert reduced["image"] == whole["image"]
    np.testing.assert_allclose(reduced["scores"], whole["scores"], atol=2e-3)


def test_other_files_are_decoded_in_full(both: Server, pixels: NDArray[np.uint8]) -> None:
    for format in ("PNG", "TIFF", "BMP"):
        data = encode(pixels, format)
        assert ask(both, "reduced", data) == ask(both, "whole", data)


def test_a_drawing_and_measurements_show_the_whole_and_the_same_detections(
    both: Server, pixels: NDArray[np.uint8]
) -> None:
    plain = ask(both, "reduced", photograph())
    headers = {"Content-Type": "image/jpeg", "Accept": "image/png"}
    drawn = both.client.post(
        "/predict", content=photograph(), headers=headers, params={"model": "reduced", "score_threshold": 1}
    )
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(drawn.content))), pixels)
    features = both.predict(photograph(), model="reduced", format="geojson").json()["features"]
    scores = [feature["properties"]["measurements"]["Score"] for feature in features]
    assert scores == plain["scores"]
