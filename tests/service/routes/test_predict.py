"""POST /predict at a real server: what a good request is answered with."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from model.runtime.bundles.repository import Repository
from model.runtime.predict import Predictor
from tests.service.harness import LABELS, Server, encode, picture, publish_probe, until
from tests.service.probe import CANDIDATES


def answer(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    value: dict[str, Any] = response.json()
    return value


def without_timing(value: dict[str, Any]) -> dict[str, Any]:
    return {key: entry for key, entry in value.items() if key != "timing_ms"}


def test_the_answer_is_the_contracts(server: Server) -> None:
    found = answer(server.predict(encode(picture(size=(70, 100)))))
    columns = ["boxes", "labels", "label_ids", "scores", "masks"]
    assert list(found) == ["model", "image", *columns, "truncated", "timing_ms"]
    assert found["model"] == {"name": "probe", "version": 1, "precision": "f32"}
    assert found["image"] == {"width": 100, "height": 70}
    count = len(found["scores"])
    assert count >= 3
    assert all(len(found[column]) == count for column in ("boxes", "labels", "label_ids", "scores", "masks"))
    assert found["scores"] == sorted(found["scores"], reverse=True)
    assert [LABELS[label - 1] for label in found["label_ids"]] == found["labels"]
    assert all(mask["size"] == [70, 100] for mask in found["masks"])
    assert np.allclose(found["boxes"][0], [10, 7, 50, 35], atol=1)
    assert list(found["timing_ms"]) == ["decode", "queue", "inference", "postprocess"]
    assert all(value >= 0 for value in found["timing_ms"].values())


@pytest.mark.parametrize("size", [(64, 64), (64, 100), (37, 23), (300, 200), (1, 1), (3, 400)], ids=str)
def test_the_answer_is_the_offline_predictors(server: Server, repository: Path, size: tuple[int, int]) -> None:
    image = picture(3, size)
    found = answer(server.predict(encode(image), score_threshold=0.2))
    predictor = Predictor.of_bundle(Repository(repository).latest("probe"), device="cpu", threads=1)
    (expected,) = predictor.predict([image], 0.2)
    predictor.close()
    assert len(expected) > 0
    assert expected.masks is not None
    assert np.array_equal(np.float32(found["scores"]), expected.scores)
    assert np.array_equal(np.float32(found["boxes"]), expected.boxes)
    assert found["label_ids"] == expected.labels.tolist()
    assert [mask["counts"].encode() for mask in found["masks"]] == [mask.counts for mask in expected.masks]


def test_multipart_and_raw_bodies_answer_the_same(server: Server) -> None:
    data = encode(picture(5))
    raw = answer(server.predict(data))
    multipart = answer(server.client.post("/predict", files={"file": ("any name.bin", data, "text/plain")}))
    other_image_type = answer(server.predict(data, "IMAGE/jpeg; charset=nonsense"))
    assert without_timing(raw) == without_timing(multipart) == without_timing(other_image_type)


@pytest.mark.parametrize(
    "content_type", ["application/octet-stream", "Application/Octet-Stream; x=y", "binary/octet-stream", "", None]
)
def test_what_is_sent_without_saying_what_it_is_is_told_from_its_bytes(
    server: Server, content_type: str | None
) -> None:
    data = encode(picture(5), "JPEG")
    headers = {} if content_type is None else {"Content-Type": content_type}
    found = answer(server.client.post("/predict", content=data, headers=headers))
    assert without_timing(found) == without_timing(answer(server.predict(data)))
    batch = server.client.post("/predict/batch", content=data, headers=headers)
    assert [item["status"] for item in batch.json()["answers"]] == [200]


@pytest.mark.parametrize(
    ("threshold", "count"),
    [
        pytest.param(None, 5, id="the model's default, 0.3"),
        pytest.param(0, 6, id="everything"),
        pytest.param(0.7, 3, id="strictly above"),
        pytest.param(1, 0, id="nothing"),
    ],
)
def test_score_threshold(server: Server, threshold: float | None, count: int) -> None:
    white = np.full((64, 64, 3), 255, np.uint8)
    white[0, :2] = 0  # the pixels that steer the probe
    parameters: dict[str, Any] = {} if threshold is None else {"score_threshold": threshold}
    found = answer(server.predict(encode(white), **parameters))
    assert np.allclose(found["scores"], [c[0] for c in CANDIDATES[:count]], atol=0.01)
    assert len(found["masks"]) == len(found["boxes"]) == count


@pytest.mark.parametrize(
    ("parameters", "label_ids"),
    [
        pytest.param({}, [1, 2, 3, 1, 2, 1], id="all"),
        pytest.param({"labels": "circle"}, [1, 1, 1], id="one"),
        pytest.param({"labels": ["square", "circle"]}, [1, 3, 1, 1], id="repeated"),
        pytest.param({"labels": "square, circle"}, [1, 3, 1, 1], id="separated by commas"),
        pytest.param({"labels": "ring, broken"}, [2, 2], id="a name with a comma"),
        pytest.param({"max_detections": 2}, [1, 2], id="the best two"),
        pytest.param({"labels": "circle", "max_detections": 2}, [1, 1], id="the best two of one label"),
        pytest.param({"max_detections": 100000}, [1, 2, 3, 1, 2, 1], id="more than there are"),
        pytest.param({"model": "probe", "version": 1}, [1, 2, 3, 1, 2, 1], id="the model by name and version"),
    ],
)
def test_filters(server: Server, parameters: dict[str, Any], label_ids: list[int]) -> None:
    found = answer(server.predict(encode(picture(1)), score_threshold=0, **parameters))
    assert found["label_ids"] == label_ids
    assert found["scores"] == sorted(found["scores"], reverse=True)


def filled(rings: list[list[float]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose center lies in an odd number of the rings."""
    inside = np.zeros(size, bool)
    for ring in rings:
        points = np.reshape(ring, (-1, 2))
        for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, 0), strict=True):
            if y1 != y2:  # edges run along pixel borders: flip all pixels to the right of a vertical one
                assert x1 == x2
                inside[int(min(y1, y2)) : int(max(y1, y2)), int(x1) :] ^= True
    return inside


# pycocotools on a newer numpy
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_every_mask_format_is_the_same_mask(server: Server) -> None:
    data, size = encode(picture(2, (64, 90))), (64, 90)
    masks: dict[str, Any] = {
        name: answer(server.predict(data, masks=name, score_threshold=0)).get("masks")
        for name in ("rle", "rle_uncompressed", "polygon", "none")
    }
    assert masks["none"] is None
    assert masks["rle"] == answer(server.predict(data, score_threshold=0))["masks"]
    holes = 0
    for rle, runs, polygons in zip(masks["rle"], masks["rle_uncompressed"], masks["polygon"], strict=True):
        expected = coco.decode(rle).astype(bool)
        assert expected.any()
        assert np.array_equal(coco.decode(coco.frPyObjects(runs, *size)), expected)
        assert np.array_equal(filled([ring for part in polygons for ring in part], size), expected)
        holes += sum(len(part) - 1 for part in polygons)
    assert holes > 0


# Orientation -> whether the picture as seen is (flipped top to bottom, flipped left to right) after swapping its axes.
ORIENTATIONS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (True, True, False),
    4: (True, False, False),
    5: (False, False, True),
    6: (False, True, True),
    7: (True, True, True),
    8: (True, False, True),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied(server: Server, orientation: int) -> None:
    stored = picture(4, (64, 100))
    stored[5:25, 5:45] = 255
    upside_down, mirrored, transposed = ORIENTATIONS[orientation]
    seen = np.swapaxes(stored, 0, 1) if transposed else stored
    seen = seen[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = answer(server.predict(encode(stored, exif=exif)))
    assert without_timing(found) == without_timing(answer(server.predict(encode(np.ascontiguousarray(seen)))))
    assert found["image"] == {"width": seen.shape[1], "height": seen.shape[0]}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_allowed_format_is_read(server: Server, format: str) -> None:
    assert answer(server.predict(encode(picture(6), format)))["image"] == {"width": 64, "height": 64}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "RGBA", "CMYK"])
def test_every_mode_is_read(server: Server, mode: str) -> None:
    gray = Image.fromarray(picture(7)[..., 0].astype(np.uint16) * 257) if mode == "I;16" else None
    image = gray or Image.fromarray(picture(7)).convert(mode)
    buffer = BytesIO()
    image.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    found = answer(server.predict(buffer.getvalue()))["image"]
    assert (found["width"], found["height"], "intensity" in found) == (64, 64, mode == "I;16")


def test_answers_do_not_depend_on_what_else_is_asked(server: Server) -> None:
    images = [picture(seed, size) for seed, size in enumerate([(64, 64), (64, 64), (64, 90), (128, 64), (64, 70)] * 6)]
    uploads = [encode(image) for image in images]
    thresholds = [0.1 + 0.05 * (index % 10) for index in range(len(uploads))]

    def ask(index: int) -> dict[str, Any]:
        return without_timing(answer(server.predict(uploads[index], score_threshold=thresholds[index])))

    alone = [ask(index) for index in range(len(uploads))]
    before = server.metrics()
    with ThreadPoolExecutor(len(uploads)) as pool:
        with server.busy():
            begun = [pool.submit(ask, index) for index in range(len(uploads))]
            until(lambda: server.metrics()["maskserve_requests_in_flight"] == 1 + len(uploads))
        together = [one.result() for one in begun]
    after = server.metrics()
    assert together == alone
    batches = after["maskserve_batch_size_count"] - before["maskserve_batch_size_count"]
    assert batches < 1 + len(uploads), "no batch was ever shared, so this test showed nothing"


def test_without_a_threshold_every_label_has_its_own(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    own = {"circle": 0.7, "ring, broken": 0.1}  # the third label has the common one, 0.3
    publish_probe(tmp_path / "staging", tmp_path / "models", score_thresholds=own)
    server = start_server("--models", str(tmp_path / "models"))
    image = encode(picture(1))
    everything = answer(server.predict(image, score_threshold=0))
    limits = {**dict.fromkeys(LABELS, 0.3), **own}
    expected = [
        (label, score)
        for label, score in zip(everything["labels"], everything["scores"], strict=True)
        if score > limits[label]
    ]
    found = answer(server.predict(image))
    assert list(zip(found["labels"], found["scores"], strict=True)) == expected
    assert min(found["scores"]) < 0.3, "the network was not asked for the lowest of them"
    assert len(found["masks"]) == len(expected) < len(everything["scores"])
    best = answer(server.predict(image, max_detections=2))
    assert best["scores"] == found["scores"][:2]
    said = answer(server.predict(image, score_threshold=0.3))
    assert set(said["labels"]) != set(found["labels"]) or said["scores"] != found["scores"]
    assert min(said["scores"]) > 0.3
