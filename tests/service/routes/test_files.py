"""`format=` at a real server: each file read by its tool's library, and as what it is sent."""

from __future__ import annotations

import csv
import gzip
import json
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from io import BytesIO, StringIO
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from roifile import ImagejRoi
from shapely.geometry import shape
from skimage.measure import regionprops

from model.runtime.detections import RLE
from model.runtime.kernels.rle import decode
from service.routes import files
from tests.patience import PATIENCE
from tests.service.harness import Server, encode, picture, until

PICTURE = picture(3, (64, 96))
FORMATS = {
    "geojson": ("application/geo+json", ".geojson"),
    "imagej": ("application/zip", ".zip"),
    "labels": ("image/tiff", ".tif"),
    "csv": ("text/csv; charset=utf-8", ".csv"),
}


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def ask(server: Server, data: bytes, **parameters: Any) -> httpx.Response:
    response = server.predict(data, **parameters)
    assert response.status_code == 200, response.text
    return response


def masks_of(server: Server, data: bytes, **parameters: Any) -> list[NDArray[np.uint8]]:
    answers = ask(server, data, **parameters).json()["masks"]
    return [decode(RLE(tuple(mask["size"]), mask["counts"].encode())).astype(np.uint8) for mask in answers]


def rows_of(response: httpx.Response) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(response.text, newline="")))


def test_csv_measures_the_file_s_own_values(server: Server) -> None:
    """Of 16 bits: what regionprops measures on the masks of the JSON answer and the values of the file."""
    values = PICTURE[..., 0].astype(np.uint16) * 200
    data = tiff(values)
    rows = rows_of(ask(server, data, format="csv"))
    masks = masks_of(server, data)
    assert len(rows) == len(masks) > 2
    for row, mask in zip(rows, masks, strict=True):
        (expected,) = regionprops(mask, values)
        assert int(row["area"]) == expected.area
        for column, name in (
            ("perimeter", "perimeter"),
            ("solidity", "solidity"),
            ("diameter", "equivalent_diameter_area"),
        ):
            assert float(row[column]) == pytest.approx(getattr(expected, name))
        for what in ("mean", "min", "max"):
            assert float(row[f"intensity_{what}_0"]) == pytest.approx(getattr(expected, f"intensity_{what}"))


def test_csv_of_colors_has_columns_for_each_channel(server: Server) -> None:
    data = encode(PICTURE)
    for row, mask in zip(rows_of(ask(server, data, format="csv")), masks_of(server, data), strict=True):
        for channel in range(3):
            under = PICTURE[..., channel][mask > 0]
            assert float(row[f"intensity_mean_{channel}"]) == pytest.approx(under.mean())


def test_all_files_hold_the_masks_of_the_answer(server: Server) -> None:
    data = encode(PICTURE)
    masks = masks_of(server, data)
    areas = [int(mask.sum()) for mask in masks]
    features = ask(server, data, format="geojson").json()["features"]
    assert [shape(feature["geometry"]).area for feature in features] == areas
    with zipfile.ZipFile(BytesIO(ask(server, data, format="imagej").content)) as archive:
        rois = [ImagejRoi.frombytes(archive.read(name)) for name in archive.namelist()]
    assert len(rois) == len(masks)
    labels = tifffile.imread(BytesIO(ask(server, data, format="labels").content))
    expected = np.zeros(labels.shape, int)
    for number, mask in reversed(list(enumerate(masks, 1))):
        expected[mask > 0] = number
    np.testing.assert_array_equal(labels, expected)
    assert [int(row["area"]) for row in rows_of(ask(server, data, format="csv"))] == areas


@pytest.mark.parametrize("format", FORMATS)
def test_what_a_file_is_sent_as(server: Server, format: str) -> None:
    media_type, suffix = FORMATS[format]
    response = ask(server, encode(PICTURE), format=format)
    assert response.headers["content-type"] == media_type
    assert response.headers["content-disposition"] == f'attachment; filename="detections{suffix}"'
    assert response.headers["maskserve-truncated"] == "false"
    assert ask(server, encode(PICTURE), format=format, max_detections=1).headers["maskserve-truncated"] == "true"
    # A browser's navigation prefers pictures to JSON, but a file was asked for.
    headers = {"Content-Type": "image/png", "Accept": "image/png"}
    preferring = server.client.post("/predict", content=encode(PICTURE), headers=headers, params={"format": format})
    assert preferring.headers["content-type"] == media_type


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("cells.png", 'attachment; filename="cells.csv"'),
        ("plate 1.ome.tif", "attachment; filename*=utf-8''plate%201.ome.csv"),
        ("Kärtchen.png", "attachment; filename*=utf-8''K%C3%A4rtchen.csv"),
        ("C:\\images\\cells.png", 'attachment; filename="cells.csv"'),
        ("../../cells.png", 'attachment; filename="cells.csv"'),
        ("a; b=c.png", "attachment; filename*=utf-8''a%3B%20b%3Dc.csv"),
        (".png", 'attachment; filename="png.csv"'),
        ("cells", 'attachment; filename="cells.csv"'),
        ("", 'attachment; filename="detections.csv"'),
    ],
)
def test_a_file_has_the_image_s_name(server: Server, name: str, disposition: str) -> None:
    sent = server.client.post("/predict", params={"format": "csv"}, files={"file": (name or None, encode(PICTURE))})  # type: ignore[dict-item]  # no name
    assert sent.status_code == 200
    assert sent.headers["content-disposition"] == disposition


def test_large_files_are_streamed_and_are_the_same(server: Server) -> None:
    data = encode(np.full((990, 990, 3), (0, 250, 255), np.uint8))  # no tile slows the probe down
    query = {"format": "geojson", "tile": 112, "overlap": 16, "score_threshold": 0.05}
    sent = {}
    for accepted in ("identity", "gzip"):
        headers = {"Content-Type": "image/png", "Accept-Encoding": accepted}
        with server.client.stream("POST", "/predict", content=data, headers=headers, params=query) as response:
            body = b"".join(response.iter_raw())
            assert response.headers.get("content-encoding") == (None if accepted == "identity" else "gzip")
            assert ("content-length" in response.headers) == (len(body) < files.PIECE and accepted == "identity")
        sent[accepted] = gzip.decompress(body) if accepted == "gzip" else body
    assert sent["gzip"] == sent["identity"]
    assert len(sent["identity"]) > files.PIECE
    masks = masks_of(server, data, **{**query, "format": "maskserve"})
    areas = [shape(feature["geometry"]).area for feature in json.loads(sent["identity"])["features"]]
    assert areas == [mask.sum() for mask in masks if mask.any()]


LARGE = 8_000_000
"""Bytes, fewer than the file that is streamed has, and more than a connection holds that nobody reads from."""


@contextmanager
def streaming(server: Server) -> Iterator[HTTPResponse]:
    """An answer of which nothing but the head has been read."""
    data = encode(np.full((3000, 3000, 3), (0, 250, 255), np.uint8))
    query = "format=geojson&tile=112&overlap=16&score_threshold=0.05"
    with closing(HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)) as connection:
        connection.request("POST", f"/predict?{query}", data, {"Content-Type": "image/png"})
        with connection.getresponse() as response:
            assert response.getheader("content-length") is None
            yield response


def test_a_server_that_shuts_down_sends_what_it_has_begun(start_server: Callable[..., Server]) -> None:
    server = start_server("--max-pixels", "9000000")
    with streaming(server) as response:
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.client.get("/readyz").status_code == 503)
        body = response.read()
    assert len(body) > LARGE
    assert json.loads(body)["type"] == "FeatureCollection"
    assert server.process.wait(20) == 0


def test_a_client_that_leaves_ends_what_is_made_for_it(start_server: Callable[..., Server]) -> None:
    server = start_server("--max-pixels", "9000000")
    with streaming(server):
        pass
    until(lambda: any('"route":"/predict"' in line for line in server.log))
    (sent,) = (json.loads(line)["bytes_out"] for line in server.log if '"route":"/predict"' in line)
    assert sent < LARGE
    assert not any('"level":"ERROR"' in line for line in server.log)


@pytest.mark.parametrize("format", ["geojson", "imagej", "csv"])
def test_without_masks_boxes_are_told(server: Server, format: str) -> None:
    assert ask(server, encode(PICTURE), format=format, masks="none").content


def test_a_label_image_needs_masks(server: Server) -> None:
    response = server.predict(encode(PICTURE), format="labels", masks="none")
    assert response.status_code == 422
    assert response.json()["type"].endswith("invalid-parameter")
    assert "made of masks, and there are none" in response.json()["detail"]


@pytest.mark.parametrize("format", FORMATS)
def test_files_of_a_bad_image_are_problems(server: Server, format: str) -> None:
    response = server.predict(b"no image", format=format)
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")


@pytest.mark.parametrize("format", FORMATS)
def test_a_batch_has_no_one_file(server: Server, format: str) -> None:
    parts = [("file", ("a", encode(PICTURE)))]
    response = server.client.post("/predict/batch", files=parts, params={"format": format})
    assert response.status_code == 422
    assert "format" in response.json()["detail"]


def test_the_pixels_size_is_said_and_who_states_it(server: Server) -> None:
    gray = PICTURE[..., 0]
    stated = tiff(gray, ome=True, metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25})
    for data, query, expected in (
        (encode(PICTURE), {}, None),
        (stated, {}, {"x": 0.5, "y": 0.25, "source": "ome"}),
        (stated, {"pixel_size_um": 2}, {"x": 2.0, "y": 2.0, "source": "request"}),
        (encode(PICTURE), {"pixel_size_um": 0.325}, {"x": 0.325, "y": 0.325, "source": "request"}),
    ):
        assert ask(server, data, **query).json()["image"].get("pixel_size_um") == expected
        for row in rows_of(ask(server, data, format="csv", **query)):
            area = "" if expected is None else int(row["area"]) * float(expected["x"]) * float(expected["y"])  # type: ignore[arg-type]  # of the table
            assert row["area_um2"] == "" if area == "" else float(row["area_um2"]) == pytest.approx(area)


@pytest.mark.parametrize("size", ["0", "-1", "1e-300", "nan", "inf", "wide", "1e7", ""])
def test_a_pixels_size_is_a_length(server: Server, size: str) -> None:
    response = server.predict(encode(PICTURE), pixel_size_um=size)
    assert response.status_code == 422
    assert "pixel_size_um" in response.json()["detail"]
