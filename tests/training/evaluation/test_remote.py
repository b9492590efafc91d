"""Evaluating a running server: the bundle's own figures, patience while it is busy, and errors that say what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.runtime.bundles.repository import Repository
from model.runtime.predict import Predictor
from tests.service.harness import ROOT, Server, picture, publish_probe
from training.data.annotations.dataset import Dataset
from training.data.formats.coco.reader import load_coco
from training.data.loading.samples import UnreadableImage
from training.evaluate import main
from training.evaluation.remote import KEY_VARIABLE, RemoteError, RemoteModel
from training.evaluation.validation import detect

KEY = "a-key-for-the-tests-of-training"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with the embedded model, and the probe."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(ROOT / "model" / "embedded" / "nuclei", folder / "nuclei")
    publish_probe(tmp_path_factory.mktemp("staging"), folder)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    """It serves one image at a time, for batches may round in another order, and has room for one more."""
    flags = "--model nuclei --max-batch-size 1 --max-queue-size 1 --engine-threads 1"
    started = Server.start(repository, *flags.split(), MASKSERVE_API_KEYS=KEY)
    yield started
    started.close()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def _dataset(folder: Path, files: dict[str, tuple[int, int]], category: str = "nucleus") -> Path:
    """A COCO folder over `folder`/images, whose files are given with (width, height) as stored; a square in each."""
    square = [[20, 20, 50, 20, 50, 50, 20, 50]]
    document = {
        "images": [
            {"id": number, "file_name": name, "width": size[0], "height": size[1]}
            for number, (name, size) in enumerate(files.items(), 1)
        ],
        "categories": [{"id": 1, "name": category}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [20, 20, 30, 30], "area": 900, "segmentation": square}
            for n in range(1, len(files) + 1)
        ],
    }
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return folder


def _probe_data(folder: Path, images: list[np.ndarray]) -> Dataset:
    (folder / "images").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
    sizes = {f"{number}.png": (image.shape[1], image.shape[0]) for number, image in enumerate(images)}
    _dataset(folder, sizes, "circle")
    return load_coco(folder / "annotations" / "instances_val.json", folder / "images")


def test_a_server_has_the_figures_of_its_bundle(tmp_path: Path, server: Server, repository: Path) -> None:
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    samples = ROOT / "model" / "samples" / "nuclei"
    shutil.copy(samples / "small.png", images)
    with Image.open(samples / "small.png") as image:
        small = image.convert("RGB")
    turned = small.crop((0, 0, small.width, small.height - 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # a server turns it, its annotations don't
    turned.save(images / "turned.jpg", exif=exif)
    data = _dataset(tmp_path / "data", {"small.png": small.size, "turned.jpg": turned.size})
    models = {"bundle": str(repository / "nuclei" / "1"), "server": server.url}
    written = {}
    for name, model in models.items():
        arguments = [f"--model={model}", f"--data={data}", f"--json={tmp_path / name}"]
        assert main(arguments + (["--threads=1"] if name == "bundle" else [])) == 0
        written[name] = (tmp_path / name).read_text()
    assert written["server"] == written["bundle"]
    point = json.loads(written["server"])["operating_point"]
    assert sum(map(sum, point["confusion"])) > 10  # the images are full of nuclei


def test_a_busy_server_is_asked_again(tmp_path: Path, server: Server, repository: Path) -> None:
    data = _probe_data(tmp_path, [picture(seed, slow=64) for seed in range(8)])
    done: list[int] = []
    remote = RemoteModel(f"{server.url}/models/probe").detect(
        data, max_detections=3, score_threshold=0.0, progress=done.append
    )
    assert done == list(range(1, 9))
    server.client.headers["X-API-Key"] = KEY
    refused = [value for name, value in server.metrics().items() if "requests_total" in name and '"429"' in name]
    assert sum(refused) > 0
    predictor = Predictor.of_bundle(Repository(repository).latest("probe"), threads=1)
    local = detect(predictor, data, max_detections=3, score_threshold=0.0)
    predictor.close()
    for ours, theirs in zip(local, remote, strict=True):
        assert len(theirs) == 3
        assert theirs.masks == ours.masks
        for field in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(getattr(theirs, field), getattr(ours, field), strict=True)


def test_an_image_that_fails_is_named(tmp_path: Path, server: Server) -> None:
    data = _probe_data(tmp_path, [picture(0, fail=True)])
    with pytest.raises(RemoteError, match=r"0\.png: http\S+ answered 500: "):
        RemoteModel(f"{server.url}/models/probe").detect(data, max_detections=3, score_threshold=0.0)
    (tmp_path / "images" / "0.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"0\.png"):
        RemoteModel(f"{server.url}/models/probe").detect(data, max_detections=3, score_threshold=0.0)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        pytest.param("{url}/models/none", r"answered 404: .*none", id="unknown model"),
        pytest.param("{url}/healthz", "answered 404", id="some other page"),
        pytest.param("http://127.0.0.1:9", "127.0.0.1:9 cannot be reached", id="nobody there"),
        pytest.param("http://", "is no server's address", id="no host"),
    ],
)
def test_a_wrong_address_is_explained(server: Server, address: str, message: str) -> None:
    with pytest.raises(RemoteError, match=message):
        RemoteModel(address.format(url=server.url))


def test_without_a_key_the_server_says_what_it_wants(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(RemoteError, match=r"answered 401: .*X-API-Key"):
        RemoteModel(server.url)


def test_an_engine_for_a_server_is_refused(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([f"--model={server.url}", f"--data={tmp_path}", "--engine=onnx"])
    assert stopped.value.code == 2
    assert "leave out --engine" in capsys.readouterr().err
