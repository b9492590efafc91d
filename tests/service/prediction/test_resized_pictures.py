"""Pictures are resized before they are copied; what an answer says of them, or shows of them, is that of the whole."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from model.runtime.images.decode import decode_image
from tests.service.harness import Server, encode

HEIGHT, WIDTH = 203, 301


def photograph() -> bytes:
    """A JPEG of a smooth ground with fine noise, in which every pixel of the whole picture counts."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ground = np.stack([x * 150 // WIDTH, y * 150 // HEIGHT, (x + y) % 100], axis=2)
    return encode((ground + generator.integers(0, 100, ground.shape)).astype(np.uint8), "JPEG", quality=75)


def test_sizes_are_those_of_the_whole(server: Server) -> None:
    response = server.predict(photograph())
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["image"] == {"width": WIDTH, "height": HEIGHT}
    assert len(answer["boxes"]) > 0
    assert np.max(answer["boxes"]) > 100  # the network saw 64 pixels a side
    assert {tuple(mask["size"]) for mask in answer["masks"]} == {(HEIGHT, WIDTH)}


def test_what_is_drawn_on_is_the_whole(server: Server) -> None:
    data = photograph()
    headers = {"Content-Type": "image/jpeg", "Accept": "image/png"}
    response = server.client.post("/predict", content=data, headers=headers, params={"score_threshold": 1})
    assert response.status_code == 200, response.text
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(response.content))), decode_image(data))


def test_values_are_those_of_the_whole(server: Server) -> None:
    data = photograph()
    response = server.predict(data, intensity="min-max")
    assert response.status_code == 200, response.text
    whole = decode_image(data)
    expected = {"mode": "min-max", "low": int(whole.min()), "high": int(whole.max())}
    assert response.json()["image"]["intensity"] == expected
