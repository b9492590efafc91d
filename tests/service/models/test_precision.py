"""What the network computes in: chosen by the setting for each model, and told wherever a client may look."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from model.runtime.bundles.manifest import PrecisionChoice
from model.runtime.bundles.repository import Repository
from model.runtime.predict import Predictor
from service.client import Client
from service.models.loading import load_first
from service.settings.settings import InvalidSettingsError, Settings
from tests.service.harness import INT8_SHARE, Server, encode, picture, publish_probe

IMAGE = encode(picture())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that have INT8, at no loss and at a great one, and one that has none."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, int8_ap in (("both", 0.4995), ("lossy", 0.47), ("plain", None)):
        publish_probe(tmp_path_factory.mktemp("staging"), folder, name, int8_ap=int8_ap)
    return folder


@pytest.fixture(scope="module")
def int8_server(mixed: Path) -> Iterator[Server]:
    server = Server.start(
        mixed, *["--model", "both", "--precision", "int8", "--engine", "onnx", "--engine-threads", "1"]
    )
    yield server
    server.close()


def test_every_answer_says_what_it_was_computed_in(int8_server: Server) -> None:
    answer = int8_server.predict(IMAGE)
    assert answer.json()["model"] == {"name": "both", "version": 1, "precision": "int8"}
    assert answer.headers["Maskserve-Precision"] == "int8"
    parts = [("file", ("a.png", IMAGE)), ("file", ("b.png", IMAGE))]
    batch = int8_server.client.post("/predict/batch", files=parts)
    assert [item["prediction"]["model"]["precision"] for item in batch.json()["answers"]] == ["int8", "int8"]
    assert batch.headers["Maskserve-Precision"] == "int8"


@pytest.mark.parametrize("parameters", [{"format": "coco"}, {"format": "geojson"}, {"format": "csv"}], ids=str)
def test_files_say_it_in_a_header(int8_server: Server, parameters: dict[str, str]) -> None:
    assert int8_server.predict(IMAGE, **parameters).headers["Maskserve-Precision"] == "int8"


def test_pictures_say_it_in_a_header(int8_server: Server) -> None:
    drawn = int8_server.client.post(
        "/predict", content=IMAGE, headers={"Content-Type": "image/png", "Accept": "image/png"}
    )
    assert Image.open(io.BytesIO(drawn.content)).format == "PNG"
    assert drawn.headers["Maskserve-Precision"] == "int8"


def test_the_protocol_says_it_too(int8_server: Server) -> None:
    body = {
        "inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(IMAGE).decode()]}]
    }
    answer = int8_server.client.post("/v2/models/both/infer", json=body).raise_for_status().json()
    assert answer["parameters"]["precision"] == "int8"
    config = int8_server.client.get("/v2/models/both/config").json()
    assert config["default_model_filename"] == "model.int8.onnx"
    assert config["parameters"] == {"precision": {"string_value": "int8"}}


def test_models_say_what_there_is_and_what_runs(int8_server: Server) -> None:
    listed = {model["name"]: model for model in int8_server.client.get("/models").json()["models"]}
    assert listed["both"]["precision"] == "int8"
    found = {key: one["mask/AP"] for key, one in listed["both"]["precisions"].items()}
    assert found == {"f32": 0.5, "int8": 0.4995}
    [proof] = listed["both"]["proofs"]
    assert (proof["precision"], proof["engine"], proof["ap"]["mask/AP"]) == ("int8", "onnx", 0.4995)
    assert proof["ap_lost"] == pytest.approx(0.0005)
    assert listed["both"]["precision_why"] == ""  # it was asked for
    name = 'maskserve_model_info{device="cpu",engine="onnx",name="both",newest="true",precision="int8",version="1"}'
    assert int8_server.metrics()[name] == 1
    assert "(onnx, int8, cpu, " in "".join(int8_server.errors)
    assert "engine auto" not in "".join(int8_server.errors)  # it was named


def test_the_client_has_it(int8_server: Server) -> None:
    with Client(int8_server.url) as client:
        assert client.predict(IMAGE).precision == "int8"


def test_the_file_of_that_precision_answers(int8_server: Server, mixed: Path) -> None:
    predictor = Predictor.of_bundle(Repository(mixed).latest("both"), device="cpu", threads=1)
    [exact] = predictor.predict([picture()], 0.0)
    assert int8_server.predict(IMAGE).json()["scores"][0] == pytest.approx(INT8_SHARE * exact.scores[0])


def test_a_model_without_it_is_refused_alone(int8_server: Server) -> None:
    refused = int8_server.client.get("/models").json()["refused"]["plain"]
    assert "has no model.int8.onnx; publish one with: maskserve export --bundle" in refused[0]["reason"]
    answer = int8_server.predict(IMAGE, model="plain")
    assert answer.status_code == 404
    assert "model.int8.onnx" not in answer.text


@pytest.mark.parametrize(
    ("precision", "features", "chosen"),
    [
        pytest.param(
            "auto", {"avx512_vnni"}, {"both": "int8", "lossy": "f32", "plain": "f32"}, id="what costs nothing"
        ),
        pytest.param("auto", {"avx2"}, {"both": "f32", "lossy": "f32", "plain": "f32"}, id="no instructions for it"),
        pytest.param("f32", {"avx512_vnni"}, {"both": "f32", "lossy": "f32", "plain": "f32"}, id="f32"),
        pytest.param("int8", {"avx512_vnni"}, {"both": "int8", "lossy": "int8"}, id="INT8, where there is some"),
    ],
)
def test_each_model_of_a_repository_has_its_own(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, precision: PrecisionChoice, features: set[str], chosen: dict[str, str]
) -> None:
    monkeypatch.setattr("model.runtime.engines.precision.processor_features", lambda: features)
    catalog = load_first(Settings(models=mixed, model="both", precision=precision, device="cpu", engine_threads=1))
    assert {model.name: model.precision for model in catalog.served} == chosen
    catalog.close()


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        pytest.param(None, "as what int8 by openvino loses was not measured when it was published", id="no proof"),
        pytest.param("openvino is broken", "as openvino is broken", id="broken"),
    ],
)
def test_what_cannot_run_or_is_not_proven_falls_to_onnx_runtime_and_says_why(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str | None, why: str
) -> None:
    models = mixed
    if reason is not None:
        models = tmp_path / "models"
        publish_probe(tmp_path / "staging", models, "both", int8_ap=0.4995, by_openvino=0.4995)
    for module in ("precision", "choosing"):
        monkeypatch.setattr(f"model.runtime.engines.{module}.processor_features", lambda: {"avx512_vnni"})
    monkeypatch.setattr("model.runtime.engines.choosing.why_no_openvino", lambda: reason)
    catalog = load_first(Settings(models=models, model="both", precision="auto", device="cpu", engine_threads=1))
    [model] = [model for model in catalog.served if model.name == "both"]
    assert (model.engines[0].name, model.precision, model.engine_why) == ("onnx", "int8", why)
    assert model.precision_why == "which lost 0.05 points of AP by onnx when it was published"
    catalog.close()


def test_a_start_without_it_says_in_one_line_how_to_get_it(repository: Path) -> None:
    with pytest.raises(
        InvalidSettingsError, match=r"has no model\.int8\.onnx; publish one with: maskserve export"
    ) as stop:
        load_first(Settings(models=repository, precision="int8", device="cpu"))
    assert "\n" not in str(stop.value)
