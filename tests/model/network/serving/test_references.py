"""The answers of a GPU against those that the bundle holds: taken within what rounding does, refused beyond it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.network.engine import EagerEngine
from model.network.graph.inference import InferenceGraph
from model.network.serving import starting
from model.network.serving.checking import check_references
from model.network.serving.comparing import found_again, reference_images
from model.network.serving.place import Host
from model.runtime.bundles.bundle import Bundle, ManifestDraft, Provenance, publish_bundle
from model.runtime.bundles.references import REFERENCES_FILE, Answers, References, to_bytes
from model.runtime.engines.engine import EngineError
from model.runtime.engines.loading import load_engine
from model.runtime.preprocess import Preprocessing
from tests.model.network.serving.answering import engine_of
from tests.model.runtime.conftest import tiny_network

CHANGES = {
    "task": "masks_keypoints",
    "num_classes": 2,
    "rpn_pre_nms_top_n_test": 40,
    "rpn_post_nms_top_n_test": 20,
    "detections_per_image": 8,
}
SEEN = Preprocessing(min_size=64, max_size=64)
THRESHOLD = 0.1


@pytest.fixture(scope="module")
def model(helpers: Any) -> Any:
    return helpers.detector(helpers.small.model_copy(update=CHANGES))


@pytest.fixture(scope="module")
def references(model: Any) -> References:
    images, sizes = reference_images(2, (64, 64), 3), np.array([[64, 64], [50, 60]])
    images[1, 50:], images[1, :, 60:] = 0, 0
    raw = EagerEngine(model).run(images, sizes, np.full(2, THRESHOLD, np.float32))
    assert min(np.bincount(raw.image_index, minlength=2)) > 3
    return References(images, sizes, THRESHOLD, Answers.of(raw))


def changed(answers: Answers, rows: Any, **by: float) -> Answers:
    """Other boxes, scores, labels, masks or peaks in these rows."""
    values = {name: getattr(answers, name).copy() for name in by}
    for name, amount in by.items():
        values[name][rows] = (values[name][rows] + amount).astype(values[name].dtype)
    return dataclasses.replace(answers, **values)


def test_the_same_network_answers_as_it_did(model: Any, references: References) -> None:
    check_references(engine_of(model, SEEN), references)


def test_images_are_compared_in_the_engines_bucket_whatever_they_were_padded_to(model: Any) -> None:
    seen = Preprocessing(min_size=160, max_size=160)
    engine = engine_of(model, seen)
    assert engine.bucket((128, 128)) == (160, 160)
    images, sizes = reference_images(1, (128, 128), 3), np.array([[128, 128]])
    raw = EagerEngine(model).run(images, sizes, np.full(1, THRESHOLD, np.float32))
    assert len(raw.scores) > 3
    check_references(engine, References(images, sizes, THRESHOLD, Answers.of(raw)))


@pytest.mark.parametrize(
    ("by", "is_same"),
    [
        pytest.param({"boxes": 0.5}, True, id="boxes by half a pixel"),
        pytest.param({"boxes": 2.0}, False, id="boxes by two pixels"),
        pytest.param({"scores": 0.004}, True, id="scores by a rounding"),
        pytest.param({"scores": 0.05}, False, id="scores"),
        pytest.param({"labels": 1}, False, id="labels"),
        pytest.param({"masks": 60}, False, id="masks"),
        pytest.param({"peaks": 1}, True, id="keypoints by a cell"),
        pytest.param({"peaks": 3}, False, id="keypoints"),
    ],
)
def test_another_answer_is_refused_with_the_image(
    model: Any, references: References, by: dict[str, float], is_same: bool
) -> None:
    rows = references.answers.image_index == 1
    told = dataclasses.replace(references, answers=changed(references.answers, rows, **by))
    if is_same:
        check_references(engine_of(model, SEEN), told)
        return
    with pytest.raises(
        EngineError, match=r"on cpu reference image 2 of 2 is not answered as in float32 when the bundle was .* 0 of \d"
    ) as refused:
        check_references(engine_of(model, SEEN), told)
    assert "\n" not in str(refused.value)


def test_another_network_is_refused(helpers: Any, references: References) -> None:
    other = helpers.detector(helpers.small.model_copy(update=CHANGES))
    with torch.no_grad():
        other.roi_heads.box_predictor.cls_score.weight.neg_()
    with pytest.raises(EngineError, match="is not answered as in float32"):
        check_references(engine_of(other, SEEN), references)


def test_another_network_that_answers_again_is_refused(model: Any, references: References) -> None:
    """Otherwise it would first be run when an image overflows."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.roi_heads.box_predictor.cls_score.weight.neg_()
    engine = engine_of(model, SEEN)
    engine._again.exact = InferenceGraph(other).eval()
    with pytest.raises(
        EngineError, match=r"in float32, which answers again, answers reference image \d of 2 otherwise"
    ):
        check_references(engine, references)


@pytest.mark.parametrize(
    ("here", "there", "again", "counted"),
    [
        pytest.param([0.9, 0.8], [0.9, 0.8], 4, 4, id="the same"),
        pytest.param([0.9, 0.8], [0.9], 2, 3, id="one is missing"),
        pytest.param([0.9], [0.9, 0.8], 2, 3, id="one is new"),
        pytest.param([0.9, 0.105], [0.9], 2, 2, id="one that is nearly under the threshold is missing"),
        pytest.param([0.9], [0.9, 0.105], 2, 2, id="such a one is new"),
        pytest.param([0.9, 0.105], [0.9, 0.104], 4, 4, id="such a one is in both"),
        pytest.param([], [], 0, 0, id="nothing"),
        pytest.param([], [0.9], 0, 1, id="something where nothing was"),
    ],
)
def test_detections_are_found_again(here: list[float], there: list[float], again: int, counted: int) -> None:
    def of(scores: list[float]) -> Answers:
        count = len(scores)
        boxes = np.repeat(np.array(scores, np.float32)[:, None] * 100, 4, axis=1)
        return Answers(boxes, np.array(scores, np.float32), np.ones(count, np.int64), np.zeros(count, np.int64))

    assert found_again(of(here), of(there), THRESHOLD) == (again, counted)


@pytest.fixture
def publish(tmp_path: Path, helpers: Any, model: Any) -> Callable[[References | None], Bundle]:
    def of(references: References | None) -> Bundle:
        folder = tmp_path / "staging"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(tiny_network("masks"))
        torch.save(model.state_dict(), folder / "weights.pth")
        if references is not None:
            (folder / REFERENCES_FILE).write_bytes(to_bytes(references))
        architecture = helpers.small.model_copy(update=CHANGES)
        draft = ManifestDraft(
            architecture=architecture,
            class_names=("a",),
            keypoint_names=tuple(f"point {number}" for number in range(architecture.num_keypoints)),
            preprocessing=SEEN,
            provenance=Provenance(dataset="generated", license="CC0-1.0"),
        )
        return publish_bundle(folder, draft, tmp_path / "repository", "small")

    return of


def test_a_bundle_that_brings_other_answers_is_not_served(
    publish: Callable[..., Bundle], references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "Gpu", lambda index, name: Host())
    monkeypatch.setattr(starting, "why_no_gpu", lambda index: None)
    other = dataclasses.replace(references, answers=changed(references.answers, slice(None), scores=0.2))
    with pytest.raises(EngineError, match="reference image 1 of 2 is not answered as in float32"):
        load_engine(publish(other), "cuda", "cuda", batch_size=1)


def test_a_bundle_that_brings_its_own_answers_is_served(
    publish: Callable[..., Bundle], references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    check = starting.check_references

    def checked(engine: Any, references: References) -> None:
        seen.append(len(references))
        check(engine, references)

    monkeypatch.setattr(starting, "Gpu", lambda index, name: Host())
    monkeypatch.setattr(starting, "why_no_gpu", lambda index: None)
    monkeypatch.setattr(starting, "check_references", checked)
    load_engine(publish(references), "cuda", "cuda", batch_size=1).close()
    assert seen == [2]
