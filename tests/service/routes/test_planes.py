"""Files with several planes at a real server: which is seen, what may be asked for, what is said and refused."""

from __future__ import annotations

import base64
import csv
import struct
from io import BytesIO, StringIO
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from model.runtime.detections import RLE
from model.runtime.kernels.rle import decode
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


def infer(server: Server, data: bytes, **parameters: Any) -> Any:
    image = {"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(data).decode()]}
    body = {"inputs": [image], "parameters": parameters}
    return server.client.post("/v2/models/probe/infer", json=body)


def test_the_inference_protocol_takes_the_same_parameters(server: Server) -> None:
    assert (
        infer(server, stack(), z=1, channel=1).json()["outputs"] == infer(server, encode(PLANES[3])).json()["outputs"]
    )
    assert infer(server, stack(), z=7).status_code == 422


def fluorescence() -> bytes:
    """An ImageJ stack of four channels of 16 bits, each with a range of its own."""
    values = np.stack([PLANES[index].astype(np.uint16) << index for index in range(4)])
    file = BytesIO()
    tifffile.imwrite(file, values, imagej=True, metadata={"axes": "CYX"})
    return file.getvalue()


AUTO_8 = {"mode": "auto", "low": 0.0, "high": 255.0}


def test_channels_become_the_network_s_inputs(server: Server) -> None:
    """Against the same as an RGB picture: each channel has the window that it would have alone."""
    as_rgb = encode(np.stack([PLANES[2], np.zeros_like(PLANES[0]), PLANES[0]], axis=2))
    found, expected = ask(server, fluorescence(), channels="2,,0"), ask(server, as_rgb)
    assert found["label_ids"] == expected["label_ids"]
    assert np.allclose(found["scores"], expected["scores"], atol=0.02)
    assert found["image"] == {
        "width": 64,
        "height": 64,
        "channels": [
            {"index": 2, "of": 4, "intensity": {"mode": "auto", "low": 0.0, "high": 1023.0}},
            None,
            {"index": 0, "of": 4, "intensity": AUTO_8},
        ],
    }
    stretched = ask(server, fluorescence(), channels="2,,0", intensity="min-max")["image"]["channels"]
    assert [stretched[0]["intensity"]["high"], stretched[2]["intensity"]["high"]] == [
        int(PLANES[2].max()) << 2,
        int(PLANES[0].max()),
    ]


def test_colors_in_another_order_and_a_gray_picture(server: Server) -> None:
    colors = picture(3)
    found, expected = ask(server, encode(colors), channels="2,1,0"), ask(server, encode(colors[..., ::-1]))
    assert (found["scores"], found["boxes"]) == (expected["scores"], expected["boxes"])
    assert found["image"]["channels"] == [{"index": index, "of": 3} for index in (2, 1, 0)]
    gray = ask(server, encode(PLANES[0]), channels="0,0,0")
    assert gray["scores"] == ask(server, encode(PLANES[0]))["scores"]


def test_ways_to_name_channels(server: Server) -> None:
    expected = ask(server, fluorescence(), channels="1,,0")
    for given in (["1", "", "0"], ["1,", "0"], " 1, ,0 "):
        assert ask(server, fluorescence(), channels=given)["image"] == expected["image"]
    for body in ("1,,0", [1, None, 0]):
        outputs = infer(server, fluorescence(), channels=body).json()["outputs"]
        scores = next(output["data"] for output in outputs if output["name"] == "SCORES")
        assert np.allclose(scores, expected["scores"], atol=1e-6)
    data = {"files": [("file", ("a.tif", fluorescence())), ("file", ("b.png", encode(PLANES[0])))]}
    first, second = server.client.post("/predict/batch", params={"channels": "1,,0"}, **data).json()["answers"]
    assert first["prediction"]["image"] == expected["image"]
    assert "no channel 1: it has 1" in second["problem"]["detail"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"channels": "0,1,4"}, "the image has no channel 4: it has 4, counted from 0"),
        ({"channels": "0,1"}, "channels: the model takes 3 channels, not 2: name as many, such as 0,1,2"),
        ({"channels": "0,1,2,3"}, "channels: the model takes 3 channels, not 4"),
        ({"channels": ",".join("0" * 500)}, "channels: no model takes more than 16"),
        ({"channels": "0,1,2", "channel": 1}, "channels: channel and channels are two ways to say the same"),
        ({"channels": ""}, "channels: the model takes 3 channels, not 1"),
        ({"channels": ",,"}, "channels: all of them are black"),
        ({"channels": "red,green,blue"}, "channels: 'red' is no channel: give numbers from 0"),
        ({"channels": "0,-1,2"}, "channels: '-1' is no channel"),
        ({"channels": "0,1,99999999999999999999"}, "channels: '99999999999999999999' is no channel"),
    ],
)
def test_channels_that_cannot_be_taken(server: Server, parameters: dict[str, Any], message: str) -> None:
    for response in (server.predict(fluorescence(), **parameters), infer(server, fluorescence(), **parameters)):
        assert response.status_code == 422
        assert response.json()["type"].endswith("invalid-parameter")
        assert message in response.json()["detail"]


@pytest.mark.parametrize("channels", [7, {"red": 0}, [0, True, 2], [0, "1", 2], [[0], 1, 2]])
def test_channels_of_no_kind_that_the_protocol_has(server: Server, channels: object) -> None:
    response = infer(server, fluorescence(), channels=channels)
    assert response.status_code == 422
    assert "channels: should be numbers separated by commas, or a list of numbers and null" in response.json()["detail"]


def test_a_table_measures_the_channels_that_were_used(server: Server) -> None:
    table = server.predict(fluorescence(), channels="3,,0", format="csv", score_threshold=0.1).text
    rows = list(csv.DictReader(StringIO(table)))
    masks = [
        decode(RLE(tuple(one["size"]), one["counts"].encode()))
        for one in ask(server, fluorescence(), channels="3,,0", score_threshold=0.1)["masks"]
    ]
    assert len(rows) == len(masks) > 0
    assert [name for name in rows[0] if name.startswith("intensity_mean")] == ["intensity_mean_0", "intensity_mean_3"]
    for row, bitmap in zip(rows, masks, strict=True):
        for index in (0, 3):
            under = (PLANES[index].astype(np.uint16) << index)[bitmap]
            assert float(row[f"intensity_mean_{index}"]) == pytest.approx(under.mean())
    features = server.predict(fluorescence(), channels="3,,0", format="geojson", score_threshold=0.1).json()["features"]
    assert {name for name in features[0]["properties"]["measurements"] if name.startswith("Channel")} == {
        f"Channel {index}: {what}" for index in (0, 3) for what in ("mean", "min", "max")
    }


def test_channels_in_tiles_and_drawn(server: Server) -> None:
    values = np.stack([picture(seed, (150, 260))[..., 0] for seed in range(4)])
    file = BytesIO()
    tifffile.imwrite(file, values, ome=True, metadata={"axes": "CYX"})
    as_rgb = encode(np.stack([values[3], values[1], values[0]], axis=2))
    wishes = {"tile": "128", "score_threshold": 0.1}
    found, expected = ask(server, file.getvalue(), channels="3,1,0", **wishes), ask(server, as_rgb, **wishes)
    assert found["image"]["tiles"] == expected["image"]["tiles"] > 1
    assert (found["scores"], found["masks"]) == (expected["scores"], expected["masks"])
    drawn = [
        server.client.post("/predict", content=data, params=params, headers={"Accept": "image/png"}).content
        for data, params in ((file.getvalue(), {"channels": "3,1,0"}), (as_rgb, {}))
    ]
    assert np.array_equal(*(np.asarray(Image.open(BytesIO(one))) for one in drawn))
