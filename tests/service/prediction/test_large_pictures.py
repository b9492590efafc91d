"""Pictures that are read part by part: answered as those that are decoded at once, and given up when nobody waits."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from model.runtime.tiling import OVERLAP, plan_tiles
from service.http.spool import IN_MEMORY
from tests.service.harness import Server, encode, picture, until
from tests.service.holding import HOLD, MARK, PASS

HEIGHT, WIDTH = 900, 1200
"""More pixels than the shared server decodes at once."""
TILE = 400
SMALL = ("--max-pixels", "100000", "--max-body-bytes", "10000000")


@pytest.fixture(scope="module")
def large_values() -> NDArray[np.uint8]:
    """uint8 [H, W, 3], brighter from place to place, in few bytes; black where tiles begin, whichever way it is turned,
    so as not to steer the probe."""
    cells = np.random.default_rng(2).integers(0, 255, (HEIGHT // 100, WIDTH // 100, 3), np.uint8)
    values = np.repeat(np.repeat(cells, 100, axis=0), 100, axis=1)
    for part in (values, values[::-1], values.swapaxes(0, 1), values.swapaxes(0, 1)[::-1]):
        for top in {tile.top for tile in plan_tiles(part.shape[:2], TILE, TILE // OVERLAP)}:
            part[top : top + 14] = 0
    return values


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, values, **{"compression": "zlib", "tile": (128, 128), **options})
    return file.getvalue()


def in_sixteen_bits(values: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return values.astype(np.uint16) * 16 + np.arange(WIDTH, dtype=np.uint16)[:, None] % 3


def plain(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "timing_ms"}


@pytest.fixture(scope="module")
def whole(repository: Any) -> Any:
    """A server that decodes the pictures here at once."""
    server = Server.start(repository, "--engine-threads", "1")
    yield server
    server.close()


@pytest.mark.parametrize("intensity", [{}, {"intensity": "min-max"}, {"intensity": "percentile", "low": 2, "high": 98}])
@pytest.mark.parametrize("depth", [8, 16, 32])
def test_the_answer_is_that_of_the_picture_decoded_at_once(
    large_values: NDArray[np.uint8], server: Server, whole: Server, depth: int, intensity: dict[str, Any]
) -> None:
    values: NDArray[Any] = large_values
    if depth == 16:
        values = in_sixteen_bits(large_values)
    elif depth == 32:
        values = in_sixteen_bits(large_values).astype(np.float32)
        values[5, 5] = np.nan
    for options in ({}, {"extratags": [(274, "H", 1, 6, True)]}):
        data = tiff(values, photometric="rgb", predictor=True, **options)
        answers = [one.predict(data, "image/tiff", tile=TILE, **intensity) for one in (server, whole)]
        assert [one.status_code for one in answers] == [200, 200]
        by_region, at_once = (plain(one.json()) for one in answers)
        assert by_region["image"]["tiles"] > 1
        assert len(by_region["scores"]) > 10
        assert by_region == at_once


def test_intensities_are_measured_in_the_files_own_values(
    large_values: NDArray[np.uint8], server: Server, whole: Server
) -> None:
    data = tiff(in_sixteen_bits(large_values), photometric="rgb")
    for format in ("csv", "geojson"):
        answers = [one.predict(data, "image/tiff", tile=TILE, format=format) for one in (server, whole)]
        assert answers[0].content == answers[1].content
    assert answers[0].json()["features"][0]["properties"]["measurements"]


@pytest.mark.parametrize(
    ("query", "accept", "said"),
    [
        ({}, "*/*", r"(max_pixels), which seeing it whole would need; ask for tiles, as in tile=1024"),
        ({"tile": "off"}, "*/*", r"ask for tiles, as in tile=1024"),
        ({"tile": TILE}, "image/png", r"(max_pixels), which drawing on it would need; ask for JSON"),
    ],
)
def test_what_needs_the_whole_picture_is_refused(
    large_values: NDArray[np.uint8], server: Server, query: dict[str, Any], accept: str, said: str
) -> None:
    """The probe sees every picture shrunk."""
    headers = {"Content-Type": "image/tiff", "Accept": accept}
    refused = server.client.post("/predict", content=tiff(large_values), params=query, headers=headers)
    assert refused.status_code == 413
    assert refused.json()["type"] == "urn:maskserve:problem:too-many-pixels"
    assert said in refused.json()["detail"]


def test_limits_name_their_setting(large_values: NDArray[np.uint8], start_server: Callable[..., Server]) -> None:
    server = start_server("--max-pixels", "500000", "--max-picture-pixels", "1000000")
    for data, setting in (
        (tiff(large_values), "max_picture_pixels"),
        (tiff(large_values[:800], tile=None, rowsperstrip=800), "max_pixels"),
        (encode(large_values[:800]), "max_pixels"),
    ):
        refused = server.predict(data, "image/*", tile=TILE)
        assert refused.status_code == 413
        assert f"({setting})" in refused.json()["detail"]
    assert server.predict(tiff(large_values[:800]), "image/tiff", tile=TILE).status_code == 200


def test_a_damaged_tile_is_an_error_and_no_part_of_an_answer(large_values: NDArray[np.uint8], server: Server) -> None:
    data = bytearray(tiff(large_values))
    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        assert isinstance(page, tifffile.TiffPage)
        start, count = page.dataoffsets[-1], page.databytecounts[-1]
    data[start : start + count] = bytes(count)
    refused = server.predict(bytes(data), "image/tiff", tile=TILE)
    assert refused.status_code == 400
    assert refused.json()["type"] == "urn:maskserve:problem:damaged-image"
    assert server.predict(encode(picture())).status_code == 200


def marked() -> bytes:
    """Every tile of it stays on the engine while the server is told to hold."""
    values = np.zeros((400, 400, 3), np.uint8)
    columns = np.arange(400) % 64  # tiles begin at multiples of 64, and are shrunk
    values[:, (columns >= 3) & (columns < 12), 0] = MARK
    return tiff(values)


def runs(server: Server) -> float:
    return server.metrics()["maskserve_batch_size_sum"]


def waiting_runs(server: Server) -> int:
    return len([name for name in os.listdir(server.holding) if name not in (HOLD, PASS)])


def test_a_client_that_leaves_stops_its_picture_within_one_tile(start_server: Callable[..., Server]) -> None:
    server = start_server("--max-batch-size", "1", *SMALL)
    data = marked()
    (server.holding / HOLD).touch()
    request = f"POST /predict?tile=100&overlap=16 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(request.encode() + data)
        until(lambda: waiting_runs(server) == 1)
    until(lambda: server.metrics()["maskserve_requests_in_flight"] == 0)
    (server.holding / HOLD).unlink()
    assert server.predict(encode(picture())).status_code == 200
    assert runs(server) == 2  # the tile that ran, and this image


def test_an_image_goes_before_the_tiles_that_wait(start_server: Callable[..., Server]) -> None:
    server = start_server("--max-batch-size", "1", *SMALL)
    (server.holding / HOLD).touch()
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(server.predict, marked(), "image/tiff", tile=100, overlap=16)
        until(lambda: waiting_runs(server) == 1)
        quick = pool.submit(server.predict, encode(picture()))
        until(lambda: server.metrics()['maskserve_queue_depth{model="probe",priority="interactive"}'] == 1)
        (server.holding / PASS).touch()  # for the tile that runs, and no other
        assert quick.result().status_code == 200
        assert runs(server) == 2
        assert not large.done()
        (server.holding / HOLD).unlink()
        assert large.result().json()["image"]["tiles"] == 36


def test_a_body_that_is_too_large_for_memory_is_read_from_its_file(start_server: Callable[..., Server]) -> None:
    """More than 32 MiB, which is more than is kept."""
    server = start_server("--max-pixels", "5000000", "--max-body-bytes", "50000000")
    values = np.zeros((3500, 3500, 3), np.uint8)
    data = tiff(values, compression=None, tile=(512, 512))
    assert len(data) > IN_MEMORY
    answers = [
        server.predict(data, "image/tiff", tile=2000),
        server.client.post("/predict?tile=2000", files={"file": ("large.tif", data, "image/tiff")}),
        server.client.post(
            "/predict?tile=2000", content=zlib.compress(data, 1), headers={"Content-Encoding": "deflate"}
        ),
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    first, *others = (plain(answer.json()) for answer in answers)
    assert first["image"] == {"width": 3500, "height": 3500, "tiles": 9}
    assert others == [first, first]
