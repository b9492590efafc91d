"""Files with several planes at a real server: which is seen, what may be asked for, what is said and refused."""

from __future__ import annotations

import base64
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.service.harness import Server, encode, picture

PLANES = np.stack([picture(seed)[..., 0] for seed in range(6)])


def stack() -> bytes:
    """An OME-TIFF of three focal planes in two channels."""
    file = BytesIO()
    tifffile.imwrite(file, PLANES.reshape(3, 2, 64, 64), ome=True, metadata={"axes": "ZCYX"})
    return file.getvalue()


def ask(server: Server, data: bytes, **parameters: Any) -> dict[str, Any]:
    response = server.predict(data, **parameters)
    assert response.status_code == 200, response.text
    value: dict[str, Any] = response.json()
    return value


def test_the_plane_that_is_asked_for_is_seen(server: Server) -> None:
    """Against the same plane as a picture of its own."""
    for parameters, index, said in (
        ({}, 0, {"z": {"index": 0, "of": 3}, "channel": {"index": 0, "of": 2}}),
        ({"z": 2}, 4, {"z": {"index": 2, "of": 3}, "channel": {"index": 0, "of": 2}}),
        ({"z": 1, "channel": 1}, 3, {"z": {"index": 1, "of": 3}, "channel": {"index": 1, "of": 2}}),
        ({"page": 5}, 5, {"page": {"index": 5, "of": 6}}),
    ):
        found, alone = ask(server, stack(), **parameters), ask(server, encode(PLANES[index]))
        assert found["scores"] == alone["scores"]
        assert found["boxes"] == alone["boxes"]
        assert found["image"] == {"width": 64, "height": 64, "plane": said}
        assert "plane" not in alone["image"]


def test_a_channel_of_colors(server: Server) -> None:
    colors = picture(3)
    found, alone = ask(server, encode(colors), channel=2), ask(server, encode(colors[..., 2]))
    assert found["scores"] == alone["scores"]
    assert found["image"]["plane"] == {"channel": {"index": 2, "of": 3}}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"z": 3}, "the image has no z 3: it has 3, counted from 0"),
        ({"t": 1}, "the image has no t 1: its file states no axis t"),
        ({"page": 6}, "the image has no page 6: it has 6, counted from 0"),
        ({"channel": 2}, "the image has no channel 2: it has 2, counted from 0"),
        ({"page": -1}, "page"),
        ({"z": "all"}, "z"),
    ],
)
def test_what_there_is_not(server: Server, parameters: dict[str, Any], message: str) -> None:
    response = server.predict(stack(), **parameters)
    assert response.status_code == 422
    assert response.json()["type"].endswith("invalid-parameter")
    assert message in response.json()["detail"]


def test_a_sound_file_that_cannot_be_read_is_415(server: Server) -> None:
    file = BytesIO()
    tifffile.imwrite(file, np.zeros((8, 8), np.complex64))
    response = server.predict(file.getvalue())
    assert response.status_code == 415
    assert "COMPLEX" in response.json()["detail"]
    damaged = server.predict(b"II*\0" + struct.pack("<IHI", 8, 0, 8))
    assert damaged.status_code == 400
    assert "circle" in damaged.json()["detail"]


def test_the_inference_protocol_takes_the_same_parameters(server: Server) -> None:
    def infer(data: bytes, **parameters: Any) -> Any:
        image = {"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(data).decode()]}
        body = {"inputs": [image], "parameters": parameters}
        return server.client.post("/v2/models/probe/infer", json=body)

    assert infer(stack(), z=1, channel=1).json()["outputs"] == infer(encode(PLANES[3])).json()["outputs"]
    assert infer(stack(), z=7).status_code == 422
