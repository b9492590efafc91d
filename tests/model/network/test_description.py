"""What a published model.onnx says of itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from model.architecture import ArchitectureConfig
from model.network.exporting.description import describe_onnx
from model.runtime.bundles.bundle import open_bundle, publish_bundle
from model.runtime.bundles.manifest import Manifest, ManifestDraft, Provenance
from model.runtime.preprocess import Preprocessing

ARCHITECTURE = ArchitectureConfig(num_classes=3)


def network(file: Path) -> None:
    """One that adds 1, with metadata that is to go."""
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "g", values[:1], values[1:], [one])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(proto, {"onnx.infer": "old", "name": "old"})
    onnx.save(proto, file)


def draft(classes: tuple[str, ...]) -> ManifestDraft:
    return ManifestDraft(
        architecture=ARCHITECTURE,
        class_names=classes,
        preprocessing=Preprocessing.from_architecture(ARCHITECTURE),
        provenance=Provenance(dataset="ours", license="CC0"),
    )


@pytest.mark.parametrize("classes", [("cat", "dog"), ('Zürich, "old"', "猫")], ids=["plain", "any text"])
def test_a_published_network_says_what_it_is(classes: tuple[str, ...], tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    network(staging / "model.onnx")
    for version in (1, 2):
        publish_bundle(staging, draft(classes), tmp_path / "models", "pets", describe_onnx)
        folder = tmp_path / "models" / "pets" / str(version)
        bundle = open_bundle(folder)  # which verifies every file's hash
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        said = session.get_modelmeta().custom_metadata_map
        content = json.loads((folder / "manifest.json").read_text())
        del content["files"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert said == {
            "name": "pets",
            "version": str(version),
            "classes": json.dumps(classes, ensure_ascii=False),
            "preprocessing": bundle.manifest.preprocessing.model_dump_json(),
            "license": "CC0",
            "manifest_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }


def test_the_network_itself_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    network(file)
    before = onnx.load(file)
    repository = tmp_path.with_name(f"{tmp_path.name}-models")
    manifest = publish_bundle(tmp_path, draft(("a", "b")), repository, "x").manifest
    describe_onnx(file, manifest)
    after = onnx.load(file)
    assert after.graph == before.graph
    assert (after.opset_import, after.ir_version) == (before.opset_import, before.ir_version)


def test_the_hash_is_of_all_but_the_files(tmp_path: Path) -> None:
    network(tmp_path / "model.onnx")
    manifest: Manifest = publish_bundle(
        tmp_path, draft(("a", "b")), tmp_path.with_name(f"{tmp_path.name}-models"), "x"
    ).manifest
    assert manifest.model_copy(update={"files": {}}).sha256 == manifest.sha256
    assert manifest.model_copy(update={"version": 7}).sha256 != manifest.sha256
