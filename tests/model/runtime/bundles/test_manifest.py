"""What a manifest says of precisions must fit its files, and older manifests say nothing."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto
from pydantic import ValidationError

from model.runtime.bundles.bundle import Bundle, DamagedFile, ManifestDraft, PublishError, open_bundle, publish_bundle
from model.runtime.bundles.manifest import INT8_FILE, Manifest, PrecisionEvaluation, Unmeasured
from tests.measured import measured


def publish(staging: Path, draft: ManifestDraft, repository: Path, ap: dict[str, float], int8: bytes | None) -> Bundle:
    if int8 is not None:
        (staging / INT8_FILE).write_bytes(int8)
    return publish_bundle(staging, draft.model_copy(update={"precisions": measured(**ap)}), repository, "tiny")


@pytest.mark.parametrize(
    ("ap", "int8", "precisions"),
    [
        pytest.param({}, None, ("f32",), id="nothing measured"),
        pytest.param({"f32": 0.5, "bf16": 0.5}, None, ("f32",), id="bf16 needs no file"),
        pytest.param({"f32": 0.5, "int8": 0.5}, b"quantized", ("f32", "int8"), id="INT8 beside"),
    ],
)
def test_precisions_survive_the_file(
    staging: Path, draft: ManifestDraft, tmp_path: Path, ap: dict[str, float], int8: bytes | None, precisions: object
) -> None:
    published = publish(staging, draft, tmp_path / "repository", ap, int8)
    assert open_bundle(published.path) == published
    assert published.manifest.network_precisions == precisions
    assert {key: one.metrics["mask/AP"] for key, one in published.manifest.precisions.items()} == ap


@pytest.mark.parametrize(
    ("ap", "int8", "message"),
    [
        pytest.param({}, b"quantized", "precisions does not say how well it does", id="INT8 without proof"),
        pytest.param({"f32": 0.5}, b"quantized", "precisions does not say how well it does", id="proof of another"),
        pytest.param({"f32": 0.5, "int8": 0.5}, None, f"files has no {INT8_FILE}", id="proof without INT8"),
        pytest.param({"int8": 0.5}, b"quantized", "precisions has no f32", id="nothing to compare with"),
    ],
)
def test_contradictions_are_not_published(
    staging: Path, draft: ManifestDraft, tmp_path: Path, ap: dict[str, float], int8: bytes | None, message: str
) -> None:
    with pytest.raises(PublishError, match=message):
        publish(staging, draft, tmp_path / "repository", ap, int8)
    assert not list((tmp_path / "repository" / "tiny").iterdir())


def test_each_engine_has_its_figures(staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
    (staging / INT8_FILE).write_bytes(b"quantized")
    missing = Unmeasured(precision="bf16", engine="openvino", why="this processor does not compute in it")
    known = draft.model_copy(
        update={"precisions": measured({"int8": 0.49}, f32=0.5, int8=0.495), "unmeasured": (missing,)}
    )
    published = publish_bundle(staging, known, tmp_path / "repository", "tiny")
    manifest = open_bundle(published.path).manifest
    int8 = manifest.precisions["int8"]
    found = {engine: int8.by(engine) for engine in ("onnx", "openvino", "torchscript")}
    assert {engine: one and one.metrics["mask/AP"] for engine, one in found.items()} == {
        "onnx": 0.495,
        "openvino": 0.49,
        "torchscript": None,
    }
    assert manifest.unmeasured == (missing,)


def test_one_engine_has_one_word_on_one_precision(draft: ManifestDraft) -> None:
    known = measured({"int8": 0.49}, f32=0.5, int8=0.495)
    [other] = known["int8"].other_engines
    document = known["int8"].model_dump() | {"other_engines": [other.model_dump()] * 2}
    with pytest.raises(ValidationError, match="openvino has figures twice"):
        PrecisionEvaluation.model_validate(document)
    missing = Unmeasured(precision="int8", engine="openvino", why="it was not installed")
    fields = {name: getattr(draft, name) for name in ManifestDraft.model_fields}
    with pytest.raises(ValidationError, match="unmeasured has int8 by openvino, of which precisions has figures"):
        ManifestDraft(**fields | {"precisions": known, "unmeasured": (missing,)})


def test_the_second_file_is_guarded_too(staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
    published = publish(staging, draft, tmp_path / "repository", {"f32": 0.5, "int8": 0.5}, b"quantized")
    (published.path / INT8_FILE).write_bytes(b"quantizeD")
    with pytest.raises(DamagedFile, match="was changed after publishing"):
        open_bundle(published.path)


def test_both_files_say_what_they_are(staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
    (staging / INT8_FILE).write_bytes(b"quantized")
    known = draft.model_copy(update={"precisions": measured(f32=0.5, int8=0.5)})

    def sign(file: Path, manifest: Manifest) -> None:
        said = f"{file.name} of {manifest.name}/{manifest.version}"
        file.write_bytes(ModelProto(producer_name=said).SerializeToString())

    published = publish_bundle(staging, known, tmp_path / "repository", "tiny", sign)
    said = [onnx.load(published.file(name)).producer_name for name in ("model.onnx", INT8_FILE)]
    assert said == ["model.onnx of tiny/1", f"{INT8_FILE} of tiny/1"]
    assert open_bundle(published.path) == published


def test_without_figures_it_is_written_as_before_there_were_any(bundle: Bundle) -> None:
    document = json.loads((bundle.path / "manifest.json").read_text())
    assert not {"precisions", "unmeasured"} & document.keys()
    assert "trades" in document
    assert Manifest.model_validate(document).network_precisions == ("f32",)
