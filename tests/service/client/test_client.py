"""The clients for programs, at a real server: what they return is what it answers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from service.client import (
    AppliedIntensity,
    AsyncClient,
    Client,
    MaskForm,
    Prediction,
    ServerProblem,
    TakenChannel,
    UnreachableError,
    UnreadableFileError,
)
from tests.patience import PATIENCE
from tests.service.harness import ROOT, Server, encode, picture

KEY = "0123456789abcdef0123"
SIZE = (70, 100)


def without_timing(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "timing_ms"}


def test_a_prediction_is_the_servers_json(server: Server) -> None:
    data = encode(picture(1, SIZE))
    answer = server.predict(data, score_threshold=0).json()
    with Client(server.url) as client:
        found = client.predict(data, score_threshold=0)
    assert without_timing(found.json) == without_timing(answer)
    assert (found.model, found.version, found.width, found.height) == ("probe", 1, 100, 70)
    assert len(found) == len(answer["scores"]) == 6
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert np.array_equal(found.boxes, np.array(answer["boxes"], np.float32))
    assert np.array_equal(found.scores, np.array(answer["scores"], np.float32))
    assert found.label_ids.tolist() == answer["label_ids"]
    assert list(found.labels) == answer["labels"]
    assert found.keypoints is None
    assert found.timing_ms.keys() == answer["timing_ms"].keys()


# pycocotools on a newer numpy
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("form", ["rle", "rle_uncompressed", "polygon"])
def test_masks_are_pycocotools_own_in_whatever_form_they_came(server: Server, form: MaskForm) -> None:
    data = encode(picture(2, SIZE))
    answer = server.predict(data, score_threshold=0).json()
    expected = np.stack([coco.decode(mask) for mask in answer["masks"]]).astype(bool)
    with Client(server.url) as client:
        found = client.predict(data, score_threshold=0, masks=form)
    masks = found.masks_array()
    assert masks.dtype == np.bool_
    assert np.array_equal(masks, expected)
    assert all(np.array_equal(found.mask(index), mask) for index, mask in enumerate(expected))
    assert np.array_equal(np.stack([coco.decode(mask) for mask in found.to_pycocotools()]), expected)
    assert found.mask_areas().tolist() == coco.area(found.to_pycocotools()).tolist()
    with pytest.raises(IndexError):
        found.mask(len(found))


@pytest.mark.parametrize("form", ["rle", "rle_uncompressed", "polygon", "none"])
def test_coco_results_are_the_servers(server: Server, form: MaskForm) -> None:
    data = encode(picture(3, SIZE))
    expected = server.predict(data, score_threshold=0, masks=form, format="coco", image_id=7).json()
    with Client(server.url) as client:
        assert client.predict(data, score_threshold=0, masks=form).to_coco(7) == expected


def test_without_masks_asking_for_them_says_why(server: Server) -> None:
    with Client(server.url) as client:
        found = client.predict(encode(picture()), masks="none")
    assert found.masks is None
    for ask in (found.masks_array, found.mask_areas, found.to_pycocotools, lambda: found.mask(0)):
        with pytest.raises(ValueError, match="no masks"):
            ask()


def test_nothing_found_is_empty_columns(server: Server) -> None:
    with Client(server.url) as client:
        found = client.predict(encode(picture(0, SIZE)), score_threshold=1)
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.masks_array().shape == (0, *SIZE)
    assert found.to_coco(1) == found.to_pycocotools() == []


def test_keypoints_become_an_array() -> None:
    answer = {
        "model": {"name": "people", "version": 3, "precision": "f32"},
        "image": {"width": 8, "height": 4},
        "boxes": [[1, 1, 4, 3]],
        "labels": ["person"],
        "label_ids": [1],
        "scores": [0.5],
        "keypoints": [[[1.5, 2.5, 3.0], [2.0, 1.0, -1.0]]],
        "timing_ms": {},
    }
    found = Prediction.from_json(answer)
    assert found.keypoints is not None
    assert found.keypoints.shape == (1, 2, 3)
    assert found.to_coco(1)[0]["keypoints"] == [1.5, 2.5, 3.0, 2.0, 1.0, -1.0]
    assert "segmentation" not in found.to_coco(1)[0]


def test_every_kind_of_image_gives_the_same_answer(server: Server, tmp_path: Path) -> None:
    image = picture(4, SIZE)
    file = tmp_path / "a.png"
    file.write_bytes(encode(image))
    gray = Image.fromarray(image[..., 0])
    with Client(server.url) as client:
        expected = client.predict(encode(image)).scores.tolist()
        for source in (file, str(file), image, Image.fromarray(image), Image.fromarray(image).convert("RGBA")):
            assert client.predict(source).scores.tolist() == expected
        assert client.predict(gray).scores.tolist() == client.predict(gray.convert("RGB")).scores.tolist()
        assert client.predict(Image.fromarray(image).convert("CMYK")).width == 100
        gray_scores = client.predict(gray).scores
        for deep in (image[..., 0].astype(np.uint16) * 257, image[..., 0] / np.float32(255)):
            assert np.allclose(client.predict(Image.fromarray(deep)).scores, gray_scores, atol=0.01)


def test_how_values_became_8_bits_can_be_asked_and_is_said(server: Server) -> None:
    deep = Image.fromarray(picture(0)[..., 0].astype(np.uint16) * 16)
    with Client(server.url) as client:
        assert client.predict(encode(picture(0))).intensity is None
        assert client.predict(deep).intensity == AppliedIntensity("auto", 0, 4095)
        asked = client.predict(deep, intensity="full-range", low=16, high=4000.5)
        assert asked.intensity == AppliedIntensity("full-range", 16, 4000.5)
        with pytest.raises(ServerProblem, match="low and high do not go with min-max"):
            client.predict(deep, intensity="min-max", low=1)


def test_a_plane_can_be_chosen_and_is_said(server: Server) -> None:
    pages = [Image.fromarray(picture(seed)) for seed in range(3)]
    file = BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    with Client(server.url) as client:
        second = client.predict(file.getvalue(), page=1)
        assert second.plane == {"page": 1}
        alone = client.predict(encode(picture(1)))
        assert alone.plane == {}
        assert np.array_equal(second.scores, alone.scores)
        with pytest.raises(ServerProblem, match="no page 3"):
            client.predict(file.getvalue(), page=3)


def test_channels_can_be_chosen_and_are_said(server: Server) -> None:
    image = picture(2)
    with Client(server.url) as client:
        found = client.predict(encode(image), channels=(2, None, 0), intensity="full-range")
        window = AppliedIntensity("full-range", 0, 255)
        assert found.channels == (TakenChannel(2, 3, window), None, TakenChannel(0, 3, window))
        assert found.intensity is None
        swapped = np.stack([image[..., 2], np.zeros_like(image[..., 0]), image[..., 0]], axis=2)
        alone = client.predict(encode(swapped))
        assert alone.channels == ()
        assert np.array_equal(found.scores, alone.scores)
        with pytest.raises(ServerProblem, match="takes 3 channels, not 2"):
            client.predict(encode(image), channels=[0, 1])


def test_a_pillow_images_coordinates_are_its_own_whatever_its_exif_says(server: Server) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    sideways = Image.open(BytesIO(encode(picture(0, SIZE), "JPEG", exif=exif)))
    with Client(server.url) as client:
        found = client.predict(sideways)
    assert (found.width, found.height) == sideways.size == (100, 70)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((4, 4), np.uint8), ValueError, r"uint8 \[4, 4\]: need uint8 \[H, W, 3\]"),
        (np.zeros((4, 4, 3), np.float32), ValueError, "the image is float32"),
        (7, TypeError, "not int"),
        ("no such file.png", UnreadableFileError, r"read: no such file\.png: No such file"),
        (Path("no/such\nfile"), UnreadableFileError, r"read: 'no/such\\nfile': No such file"),
    ],
    ids=["gray array", "float array", "number", "missing file", "a name of two lines"],
)
def test_what_is_no_image_is_refused_here(server: Server, source: Any, error: type[Exception], message: str) -> None:
    with Client(server.url) as client, pytest.raises(error, match=message):
        client.predict(source)


def test_options_reach_the_server(server: Server) -> None:
    data = encode(picture(5))
    with Client(server.url) as client:
        found = client.predict(
            data,
            score_threshold=0,
            max_detections=1,
            labels=["ring, broken", "square"],
            masks="none",
            model="probe",
            version=1,
            priority="bulk",
            timeout_ms=20_000,
        )
        assert found.labels == ("ring, broken",)
        assert client.predict(data, labels=(), score_threshold=None).labels == client.predict(data).labels
        with pytest.raises(TypeError, match="no option threshold"):
            client.predict(data, threshold=0.5)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="sequence"):
            client.predict(data, labels="circle")


def test_a_problem_has_the_servers_words(server: Server) -> None:
    with Client(server.url) as client:
        with pytest.raises(ServerProblem) as caught:
            client.predict(b"hello")
        assert caught.value.status == 400
        assert caught.value.type == "urn:maskserve:problem:not-an-image"
        assert caught.value.as_problem() == server.predict(b"hello").json()
        assert str(caught.value).startswith("The upload is not an image: ")
        with pytest.raises(ServerProblem) as caught:
            client.predict(encode(picture()), labels=["nothing"])
        assert caught.value.status == 422
        assert caught.value.extra["unknown_labels"] == ["nothing"]


def test_models_and_readiness(server: Server) -> None:
    with Client(server.url) as client:
        assert client.ready()
        assert client.models() == server.client.get("/models").json()


def test_the_asynchronous_client_does_the_same(server: Server, tmp_path: Path) -> None:
    images = [picture(seed, SIZE) for seed in range(6)]
    file = tmp_path / "a.png"
    file.write_bytes(encode(images[0]))

    async def ask() -> list[Prediction]:
        async with AsyncClient(server.url) as client:
            assert await client.ready()
            assert (await client.models())["default"] == "probe"
            with pytest.raises(ServerProblem, match="not an image"):
                await client.predict(b"hello")
            assert (await client.predict(file)).width == 100
            return await asyncio.gather(*(client.predict(image, score_threshold=0.2) for image in images))

    with Client(server.url) as client:
        for image, found in zip(images, asyncio.run(ask()), strict=True):
            assert without_timing(found.json) == without_timing(client.predict(image, score_threshold=0.2).json)


def test_a_server_with_keys_wants_one_of_them(start_server: Callable[..., Server]) -> None:
    server = start_server("--api-keys", KEY)
    data = encode(picture())
    with Client(server.url, api_key=KEY) as client:
        assert client.predict(data).model == "probe"
    for wrong in (None, KEY.upper()):
        with Client(server.url, api_key=wrong) as client:
            assert client.ready()  # needs no key
            with pytest.raises(ServerProblem) as caught:
                client.predict(data)
            assert caught.value.status == 401
            assert KEY.upper() not in str(caught.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:port"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        Client(url)


@pytest.mark.parametrize("key", ["", "ключ", "a\nb"])
def test_a_key_that_fits_in_no_header_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match="API key") as caught:
        Client(api_key=key)
    assert not key or key not in str(caught.value)


def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    expected = r"^The server cannot be reached: http://127.0.0.1:1: Connection refused$"
    with Client("http://127.0.0.1:1", retries=0) as client, pytest.raises(UnreachableError, match=expected):
        client.predict(b"")

    async def ask() -> None:
        async with AsyncClient("http://127.0.0.1:1", retries=0) as client:
            await client.ready()

    with pytest.raises(UnreachableError, match=expected):
        asyncio.run(ask())


def test_without_supervision_the_conversion_says_what_to_install(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with Client(server.url) as client, pytest.raises(ImportError, match="pip install supervision"):
        client.predict(encode(picture())).to_supervision()


@pytest.mark.filterwarnings("ignore:OpenCV:UserWarning")  # of supervision, where that is missing
@pytest.mark.parametrize("threshold", [0.0, 1.0], ids=["six detections", "none"])
def test_supervision_gets_boxes_masks_and_names(server: Server, threshold: float) -> None:
    pytest.importorskip("supervision")
    with Client(server.url) as client:
        found = client.predict(encode(picture(1, SIZE)), score_threshold=threshold)
        without_masks = client.predict(encode(picture(1, SIZE)), score_threshold=threshold, masks="none")
    detections = found.to_supervision()
    assert len(detections) == len(found)
    assert np.array_equal(detections.xyxy, found.boxes)
    assert np.array_equal(detections.mask, found.masks_array())
    assert np.array_equal(detections.confidence, found.scores)
    assert detections.class_id.tolist() == found.label_ids.tolist()
    assert detections.data["class_name"].tolist() == list(found.labels)
    assert without_masks.to_supervision().mask is None


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)


def test_authorities_are_read_for_tls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    Client("http://127.0.0.1:1").close()
    with pytest.raises(FileNotFoundError):
        Client("https://127.0.0.1:1")


def test_importing_loads_nothing_slow() -> None:
    heavy = ("fastapi", "numba", "onnxruntime", "PIL", "pydantic", "torch", "uvicorn")
    done = run_python(
        f"import sys, service.client.command.main; print([name for name in {heavy} if name in sys.modules])"
    )
    assert done.stdout == "[]\n", done.stderr
