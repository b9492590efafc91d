"""INT8 beside model.onnx: published with what both do, from a checkpoint or a bundle, which else stays as it is."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from model.network.engine import EagerEngine
from model.network.weights import load_network
from model.runtime.bundles.bundle import Bundle, publish_bundle
from model.runtime.bundles.manifest import INT8_FILE, EngineEvaluation, ManifestDraft
from model.runtime.bundles.references import REFERENCES_FILE, read_references
from model.runtime.bundles.repository import Repository
from model.runtime.engines.processor import BF16_FEATURES, processor_features
from model.runtime.preprocess import prepare
from training.evaluation.evaluated import open_model
from training.export import main as export
from training.train import main as train

UNKNOWN = {"object_diameter": None, "precisions": {}, "unmeasured": ()}
BESIDE = ("--int8=beside", "--calibration_images=4")


@pytest.fixture(scope="module")
def source(finished_run: Path) -> Bundle:
    return Repository(finished_run / "models").latest("shapes")


@pytest.fixture(scope="module")
def again(source: Bundle, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny run's bundle, published once more with INT8."""
    models = tmp_path_factory.mktemp("again")
    assert export([f"--bundle={source.path}", f"--data={shapes}", f"--output={models}", *BESIDE]) == 0
    return Repository(models).latest("shapes")


def test_a_bundle_stays_as_it_is(source: Bundle, again: Bundle) -> None:
    before, after = source.manifest, again.manifest
    assert set(after.files) == {*before.files, INT8_FILE}
    others = set(before.files) - {"model.onnx"}  # which says of itself that it is another version
    assert all(after.files[name] == before.files[name] for name in others)
    assert onnx.load(again.file("model.onnx")).graph == onnx.load(source.file("model.onnx")).graph
    changed = {name for name in type(before).model_fields if getattr(before, name) != getattr(after, name)}
    assert changed == {"precisions", "created", "files"}


def test_a_bundle_of_before_gets_what_is_measured_today(source: Bundle, shapes: Path, tmp_path: Path) -> None:
    measured = source.manifest.object_diameter
    assert measured is not None
    old = ManifestDraft(**{name: getattr(source.manifest, name) for name in ManifestDraft.model_fields} | UNKNOWN)
    staging = tmp_path / "staging"
    shutil.copytree(source.path, staging, ignore=shutil.ignore_patterns("manifest.json", REFERENCES_FILE))
    before = publish_bundle(staging, old, tmp_path / "old", "shapes")
    assert "object_diameter" not in (before.path / "manifest.json").read_text()
    assert export([f"--bundle={before.path}", f"--data={shapes}", f"--output={tmp_path / 'new'}"]) == 0
    bundle = Repository(tmp_path / "new").latest("shapes")
    after = bundle.manifest
    assert after.object_diameter == measured
    assert after.evaluation == before.manifest.evaluation
    assert set(after.files) == {*before.manifest.files, REFERENCES_FILE}
    old_images, new_images = read_references(source), read_references(bundle)
    assert old_images is not None
    assert new_images is not None
    np.testing.assert_array_equal(new_images.images, old_images.images)
    assert set(after.precisions) - {"bf16"} == {"f32", "f16"}
    assert after.precisions["f16"].head_room == pytest.approx(source.manifest.precisions["f16"].head_room, rel=0.01)


def test_the_manifest_has_the_figures_of_both(again: Bundle, shapes: Path) -> None:
    f32, int8 = again.manifest.precisions["f32"], again.manifest.precisions["int8"]
    assert (f32.images, int8.images, int8.calibration_images) == (4, 4, 4)
    assert (f32.file, int8.file) == ("model.onnx", INT8_FILE)
    assert f32.metrics.keys() == int8.metrics.keys() >= {"box/AP", "mask/AP"}
    assert int8.command.endswith("--engine onnx --precision int8 --max_detections 20")
    assert int8.library.startswith("onnxruntime ")
    assert int8.export_check is not None
    if importlib.util.find_spec("openvino") is not None:
        other = int8.by("openvino")
        assert other is not None
        assert (other.file, other.images, other.metrics.keys()) == (INT8_FILE, 4, f32.metrics.keys())
        assert other.command.endswith("--engine openvino --precision int8 --max_detections 20")
        assert other.library.startswith("openvino ")
        assert other.export_check is not None
        assert other.export_check.max_score_error > 1e-4
    assert int8.export_check.max_score_error > 1e-4, "an INT8 network never answers so exactly"


def test_what_half_precision_loses_is_measured_without_a_gpu(source: Bundle, again: Bundle) -> None:
    known = source.manifest.precisions
    assert set(known) - {"bf16"} == {"f32", "f16"}
    f16 = known["f16"]
    assert (f16.file, f16.engine, f16.images, f16.metrics.keys()) == (
        "model.onnx",
        "cuda",
        4,
        known["f32"].metrics.keys(),
    )
    assert f16.library.endswith(", emulated on a CPU")
    assert known["f32"].by("cuda") is None, "in float32 that engine answers as the others do"
    assert f16.padded_to == ()
    assert f16.command.endswith("--engine cuda --precision f16 --max_detections 100")
    assert f16.head_room is not None
    assert 2 < f16.head_room < 65504
    assert known["f32"].head_room is None
    assert again.manifest.precisions["f16"].head_room == pytest.approx(f16.head_room, rel=0.01)


def test_a_bundle_holds_images_of_the_validation_split_with_their_answers(source: Bundle, shapes: Path) -> None:
    references = read_references(source)
    assert references is not None
    files = sorted((shapes / "images").glob("*"))
    images = [prepare(np.asarray(Image.open(file)), source.manifest.preprocessing) for file in files]
    assert 0 < len(references) <= 4
    for pixels, (height, width) in zip(references.images, references.sizes.tolist(), strict=True):
        seen = [image.pixels[:height, :width] for image in images if image.valid == (height, width)]
        assert any(np.array_equal(image, pixels[:height, :width]) for image in seen)
    raw = EagerEngine(load_network(source)).run(
        references.images, references.sizes, np.full(len(references), references.score_threshold, np.float32)
    )
    np.testing.assert_allclose(references.answers.scores, raw.scores, atol=1e-5)
    np.testing.assert_allclose(references.answers.boxes, raw.boxes, atol=1e-2)


@pytest.mark.parametrize("of", ["source", "again"])
def test_bf16_has_figures_where_this_machine_computes_in_it_with_int8_or_without(
    of: str, request: pytest.FixtureRequest
) -> None:
    manifest = request.getfixturevalue(of).manifest
    can = bool(processor_features() & BF16_FEATURES) and importlib.util.find_spec("openvino") is not None
    assert ("bf16" in manifest.precisions) is can
    missing = [one.why for one in manifest.unmeasured if (one.precision, one.engine) == ("bf16", "openvino")]
    assert len(missing) == (not can), "what was not measured is told, once"
    if can:
        bf16 = manifest.precisions["bf16"]
        assert (bf16.file, bf16.engine, bf16.images) == ("model.onnx", "openvino", 4)
        assert bf16.library.startswith("openvino ")
        assert "--engine openvino --precision bf16" in bf16.command


def padded_otherwise(source: Bundle, repository: Path) -> Bundle:
    """The bundle as a release published it in which the engine `cuda` had figures of its own padding."""
    known = dict(source.manifest.precisions)
    known["f16"] = known["f16"].model_copy(update={"padded_to": (64, 128)})
    figures = known["f16"].model_dump(include=set(EngineEvaluation.model_fields))
    known["f32"] = known["f32"].model_copy(update={"other_engines": (EngineEvaluation(**figures),)})
    draft = {name: getattr(source.manifest, name) for name in ManifestDraft.model_fields} | {"precisions": known}
    staging = repository.parent / "staging"
    shutil.copytree(source.path, staging, ignore=shutil.ignore_patterns("manifest.json"))
    return publish_bundle(staging, ManifestDraft(**draft), repository, "shapes")


def test_what_an_engine_is_not_here_for_is_said_and_measured_when_it_is(
    source: Bundle, again: Bundle, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    flags = [f"--data={shapes}", "--references=none"]
    before = padded_otherwise(source, tmp_path / "before")
    with monkeypatch.context() as patch:
        patch.setattr("training.publishing.precisions.why_no_openvino", lambda: "openvino is not installed")
        assert export([f"--bundle={before.path}", f"--output={tmp_path}", *flags, *BESIDE, "--without=f16"]) == 0
    without = Repository(tmp_path).latest("shapes")
    int8 = without.manifest.precisions["int8"]
    assert int8.by("openvino") is None
    assert without.manifest.precisions["f16"] == before.manifest.precisions["f16"], "measured before, of the same file"
    padded = before.manifest.precisions["f32"].by("cuda")
    assert padded is not None
    assert without.manifest.precisions["f32"].by("cuda") == padded, "what f16 is compared with"
    assert {(one.precision, one.engine) for one in without.manifest.unmeasured} == {
        ("int8", "openvino"),
        *([] if "bf16" in source.manifest.precisions else [("bf16", "openvino")]),
    }
    assert export([f"--bundle={without.path}", f"--output={tmp_path}", *flags]) == 0
    now = Repository(tmp_path).latest("shapes")
    assert now.manifest.version == 2
    assert now.manifest.precisions["int8"].model_copy(update={"other_engines": ()}) == int8
    [measured], [expected] = (one.manifest.precisions["int8"].other_engines for one in (now, again))
    assert measured.metrics == pytest.approx(expected.metrics)
    assert "int8" not in {one.precision for one in now.manifest.unmeasured}


def test_each_precision_can_be_evaluated(again: Bundle) -> None:
    titles = [open_model(str(again.path), None, "cpu", 1, precision).title for precision in ("f32", "int8", None)]
    assert titles == ["shapes/1 (onnx, f32)", "shapes/1 (onnx, int8)", "shapes/1 (onnx, f32)"]
    with pytest.raises(ValueError, match="torch's own modules compute in f32"):
        open_model(str(again.path), "eager", "cpu", 1, "int8")


def test_a_checkpoint_gives_both_at_once(finished_run: Path, shapes: Path, tmp_path: Path) -> None:
    without = ["--references=none", "--without", "torchscript", "weights", "f16"]
    flags = [f"--data={shapes}", f"--output={tmp_path}", *BESIDE, "--half", *without]
    assert export([f"--checkpoint={finished_run / 'checkpoints' / 'best.pt'}", *flags]) == 0
    bundle = Repository(tmp_path).latest("shapes")
    assert set(bundle.manifest.files) == {"model.onnx", INT8_FILE}
    assert bundle.manifest.trades is None
    assert "f16" not in bundle.manifest.precisions
    assert bundle.manifest.network_precisions == ("f32", "int8")
    types = {one.data_type for one in onnx.load(bundle.file(INT8_FILE)).graph.initializer if len(one.dims) == 4}
    assert onnx.TensorProto.INT8 in types
    weight = load_network(bundle).state_dict()["roi_heads.box_head.fc7.weight"].numpy()
    np.testing.assert_array_equal(weight, weight.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--data", "--int8"], "with --bundle give --int8 beside or nothing", id="INT8 alone"),
        pytest.param(["--data", *BESIDE, "--proposals=3"], "and no other trade", id="fewer proposals"),
        pytest.param(["--data", *BESIDE, "--without", "weights"], "files stay as they are", id="without a file"),
        pytest.param([*BESIDE], "give --data, a dataset with a validation split", id="no data"),
    ],
)
def test_a_wrong_wish_is_explained_at_once(
    source: Bundle, shapes: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [flag if flag != "--data" else f"--data={shapes}" for flag in flags]
    with pytest.raises(SystemExit) as stopped:
        export([f"--bundle={source.path}", f"--output={tmp_path / 'models'}", *given])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "models").exists()


def test_a_training_that_could_not_measure_it_does_not_begin(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes, data, ignore=shutil.ignore_patterns("*val*"))
    with pytest.raises(SystemExit) as stopped:
        train(["--recipe=shapes", f"--data={data}", f"--output={tmp_path / 'run'}", "--export_int8=true"])
    assert stopped.value.code == 2
    assert "--export_int8 measures what INT8 loses on a validation split" in " ".join(capsys.readouterr().err.split())
