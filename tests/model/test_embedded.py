"""The bundle that ships: intact, small enough for git, as good as its manifest says, and right on the sample images."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from pycocotools import mask as coco_mask

from model.network.exporting.description import description
from model.runtime.bundles.bundle import open_bundle
from model.runtime.bundles.references import read_references
from model.runtime.bundles.repository import EMBEDDED, Repository
from model.runtime.engines.precision import choose_precision, is_proven, load_in, why_half
from model.runtime.images.decode import load_image
from model.runtime.predict import Predictor

SAMPLES = EMBEDDED.parent / "samples" / "nuclei"
MEGABYTES = 1_000_000


def test_it_is_intact_and_small() -> None:
    bundle = Repository(EMBEDDED).latest("nuclei", verify=True)
    assert sum(record.bytes for record in bundle.manifest.files.values()) < 50 * MEGABYTES
    assert bundle.manifest.class_names == ("nucleus",)
    assert bundle.manifest.provenance.license == "CC0-1.0"


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_its_networks_say_what_they_are(file: str) -> None:
    bundle = Repository(EMBEDDED).latest("nuclei")
    said = {entry.key: entry.value for entry in onnx.load(bundle.file(file)).metadata_props}
    assert said == description(bundle.manifest)


def test_its_manifest_states_what_it_reaches_and_how_that_is_measured() -> None:
    manifest = Repository(EMBEDDED).latest("nuclei").manifest
    [figures] = [evaluation for evaluation in manifest.evaluation if evaluation.engine == "onnx"]
    assert figures.images == 72
    assert figures.metrics["mask/AP"] >= 0.63
    assert figures.metrics["mask/AP50"] >= 0.91
    assert "training.evaluate" in figures.command
    assert manifest.export_check is not None
    assert all(abs(delta) <= 0.001 for delta in manifest.export_check.ap_deltas.values())


def test_it_brings_two_of_the_samples_with_their_answers() -> None:
    references = read_references(Repository(EMBEDDED).latest("nuclei"))
    assert references is not None
    for pixels, name in zip(references.images, ("small", "sparse"), strict=True):
        np.testing.assert_array_equal(pixels, load_image(SAMPLES / f"{name}.png"))
    assert np.bincount(references.answers.image_index).tolist() == [150, 39]


def test_its_int8_loses_little_and_says_how_that_was_measured() -> None:
    manifest = Repository(EMBEDDED).latest("nuclei").manifest
    assert manifest.network_precisions == ("f32", "int8")
    assert is_proven(manifest, "int8", "onnx")
    assert is_proven(manifest, "int8", "openvino")
    assert is_proven(manifest, "bf16", "openvino")
    f32, int8 = manifest.precisions["f32"], manifest.precisions["int8"]
    [figures] = manifest.evaluation
    assert (f32.images, int8.images, int8.calibration_images) == (72, 72, 64)
    assert f32.metrics["mask/AP"] == pytest.approx(figures.metrics["mask/AP"], abs=1e-4)
    assert "--precision int8" in int8.command
    assert int8.export_check is not None
    assert f32.processor
    assert f32.library.startswith("onnxruntime ")


def test_on_a_gpu_it_computes_in_half_precision_and_says_why() -> None:
    bundle = Repository(EMBEDDED).latest("nuclei")
    assert choose_precision("auto", bundle, "cuda", on_cpu=False) == "f16"
    assert why_half(bundle.manifest) == "f16, which lost 0.01 points of AP when it was published"


def test_its_half_precision_says_how_it_was_measured() -> None:
    known = Repository(EMBEDDED).latest("nuclei").manifest.precisions
    f32, f16 = known["f32"], known["f16"]
    assert (f16.dataset, f16.images, f16.file, f16.engine) == (f32.dataset, 72, f32.file, "cuda")
    assert f16.command == f32.command.replace("--engine onnx", "--engine cuda --precision f16")
    assert f16.library.startswith("torch ")
    assert f16.library.endswith(", emulated on a CPU")
    assert f16.processor
    assert f16.head_room is not None
    assert f16.head_room > 100
    assert f16.metrics.keys() == f32.metrics.keys()


@pytest.fixture(scope="module", params=["f32", "int8"])
def predictor(request: pytest.FixtureRequest) -> Predictor:
    bundle = open_bundle(Repository(EMBEDDED).latest("nuclei").path)
    return Predictor(load_in(request.param, bundle, device="cpu"), bundle.manifest.preprocessing)


def test_an_answer_does_not_depend_on_the_neighbors(predictor: Predictor) -> None:
    """Of one bucket, so that serving would put them into one batch."""
    images = [load_image(SAMPLES / f"{name}.png")[:256, :256] for name in ("tissue", "stained", "sparse")]
    alone = predictor.predict(images, score_threshold=0.3)
    together = Predictor(predictor.engine, predictor.preprocessing, batch_size=3).predict(images, score_threshold=0.3)
    for mine, theirs in zip(alone, together, strict=True):
        assert len(mine) > 3
        np.testing.assert_array_equal(mine.labels, theirs.labels)
        np.testing.assert_allclose(mine.boxes, theirs.boxes, atol=1e-3)
        np.testing.assert_allclose(mine.scores, theirs.scores, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "nuclei"),
    [
        pytest.param("fluorescence", 43, id="fluorescence, 43 annotated nuclei"),
        pytest.param("small", 65, id="small and bright, 65"),
        pytest.param("sparse", 9, id="sparse, 9"),
        pytest.param("stained", 64, id="stained, 64"),
        pytest.param("tissue", 87, id="dense tissue, 87"),
    ],
)
def test_samples(predictor: Predictor, name: str, nuclei: int) -> None:
    image = load_image(SAMPLES / f"{name}.png")
    [found] = predictor.predict([image], score_threshold=0.5)
    assert 0.7 * nuclei <= len(found) <= 1.3 * nuclei
    assert found.masks is not None
    for rle, (x1, y1, x2, y2) in zip(found.masks, found.boxes, strict=True):
        assert rle.size == image.shape[:2]
        area = int(coco_mask.area({"size": list(rle.size), "counts": rle.counts}))
        assert 0 < area <= (x2 - x1 + 2) * (y2 - y1 + 2)


def test_samples_are_licensed() -> None:
    text = (SAMPLES.parent / "LICENSE.md").read_text()
    assert all(file.name in text for file in Path(SAMPLES).glob("*.png"))
