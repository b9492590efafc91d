"""The bundle that ships: intact, small enough for git, as good as its manifest says, and right on the sample images."""

from pathlib import Path

import onnx
import pytest
from pycocotools import mask as coco_mask

from model.network.exporting.description import description
from model.runtime.bundles.bundle import open_bundle
from model.runtime.bundles.repository import EMBEDDED, Repository
from model.runtime.images.decode import load_image
from model.runtime.predict import Predictor

SAMPLES = EMBEDDED.parent / "samples" / "nuclei"
MEGABYTES = 1_000_000


def test_it_is_intact_and_small() -> None:
    bundle = Repository(EMBEDDED).latest("nuclei", verify=True)
    assert sum(record.bytes for record in bundle.manifest.files.values()) < 40 * MEGABYTES
    assert bundle.manifest.class_names == ("nucleus",)
    assert bundle.manifest.provenance.license == "CC0-1.0"


def test_its_network_says_what_it_is() -> None:
    bundle = Repository(EMBEDDED).latest("nuclei")
    said = {entry.key: entry.value for entry in onnx.load(bundle.file("model.onnx")).metadata_props}
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


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.of_bundle(open_bundle(Repository(EMBEDDED).latest("nuclei").path), device="cpu")


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
