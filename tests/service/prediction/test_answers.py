"""The JSON of models that the servers of the other tests do not have: boxes only, keypoints, nothing found."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pytest

from model.architecture import ArchitectureConfig, Task
from model.runtime.bundles.manifest import FileRecord, Manifest, Provenance
from model.runtime.detections import RLE, Detections
from model.runtime.preprocess import Preprocessing
from service.models.catalog import ServedModel
from service.observability.record import ImageRecord
from service.prediction.answers import Detected, Seen, coco_results, prediction, to_json
from service.prediction.parameters import MaskFormat
from service.scheduling.waiting import Lane


def served(task: Task, names: tuple[str, ...] = ("cell", "N/A", "N/A")) -> ServedModel:
    manifest = Manifest(
        architecture=ArchitectureConfig(task=task, num_classes=len(names) + 1, num_keypoints=2),
        class_names=names,
        keypoint_names=("head", "tail") if task == "keypoints" else (),
        preprocessing=Preprocessing(),
        provenance=Provenance(dataset="none", license="none"),
        name="m",
        version=7,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        files={"model.onnx": FileRecord(sha256="0" * 64, bytes=1)},
    )
    return ServedModel.of(manifest, [], "f32", Lane("m", 1), 64)


def detected(task: Task, detections: Detections) -> Detected:
    record = ImageRecord()
    record.add("decode", 0.0015)
    return Detected(served(task), (4, 6), Seen(detections), record)


def answer(task: Task, detections: Detections, masks: MaskFormat = "rle") -> dict[str, Any]:
    value: dict[str, Any] = orjson.loads(to_json(prediction(detected(task, detections), masks)))
    assert value.pop("timing_ms") == {"decode": 1.5, "queue": 0.0, "inference": 0.0, "postprocess": 0.0}
    assert value.pop("model") == {"name": "m", "version": 7, "precision": "f32"}
    assert value.pop("image") == {"width": 6, "height": 4}
    return value


BOX = np.array([[0.1, 0.5, 5.25, 3]], np.float32)
SCORE, LABEL = np.array([0.9], np.float32), np.array([1])
FOUND = {"boxes": [[0.1, 0.5, 5.25, 3.0]], "labels": ["cell"], "label_ids": [1], "scores": [0.9]}
COLUMNS = {**FOUND, "truncated": False}


def test_boxes_only() -> None:
    assert answer("boxes", Detections(BOX, SCORE, LABEL)) == COLUMNS


def test_keypoints() -> None:
    keypoints = np.array([[[1, 2, 8.5], [3, 0, -1]]], np.float32)
    expected = {**COLUMNS, "keypoints": [[[1.0, 2.0, 8.5], [3.0, 0.0, -1.0]]]}
    assert answer("keypoints", Detections(BOX, SCORE, LABEL, None, keypoints)) == expected


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        pytest.param("rle", {"size": [4, 6], "counts": "52a0"}, id="rle"),
        pytest.param("rle_uncompressed", {"size": [4, 6], "counts": [5, 2, 17]}, id="run lengths"),
        pytest.param("polygon", [[[1.0, 3.0, 1.0, 1.0, 2.0, 1.0, 2.0, 3.0]]], id="polygons: parts of rings"),
        pytest.param("none", None, id="none, though there are some"),
    ],
)
def test_masks(masks: MaskFormat, expected: Any) -> None:
    # Pixels 5 and 6 in column-major order: column 1, rows 1 and 2.
    found = answer("masks", Detections(BOX, SCORE, LABEL, [RLE((4, 6), b"52a0")]), masks)
    assert found.get("masks") == (None if expected is None else [expected])


def test_nothing_found() -> None:
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), [])
    assert answer("masks", nothing) == {
        "boxes": [],
        "labels": [],
        "label_ids": [],
        "scores": [],
        "masks": [],
        "truncated": False,
    }


def test_a_name_may_stand_for_several_labels() -> None:
    model = served("boxes")
    assert model.label_ids == {"cell": (1,), "N/A": (2, 3)}
    assert [model.label_names[label] for label in (1, 2, 3)] == ["cell", "N/A", "N/A"]


MASKED = Detections(BOX, SCORE, LABEL, [RLE((4, 6), b"52a0")])


@pytest.mark.parametrize(
    ("detections", "masks", "expected"),
    [
        pytest.param(Detections(BOX, SCORE, LABEL), "rle", {}, id="boxes"),
        pytest.param(MASKED, "rle", {"segmentation": {"size": [4, 6], "counts": "52a0"}}, id="run lengths as text"),
        pytest.param(MASKED, "polygon", {"segmentation": [[1.0, 3.0, 1.0, 1.0, 2.0, 1.0, 2.0, 3.0]]}, id="polygons"),
        pytest.param(MASKED, "none", {}, id="masks left out"),
        pytest.param(
            Detections(BOX, SCORE, LABEL, None, np.array([[[1, 2, 8.5], [3, 0, -1]]], np.float32)),
            "rle",
            {"keypoints": [1.0, 2.0, 8.5, 3.0, 0.0, -1.0]},
            id="keypoints in a row",
        ),
    ],
)
def test_coco_results(detections: Detections, masks: MaskFormat, expected: dict[str, Any]) -> None:
    (entry,) = orjson.loads(to_json(coco_results(detections, masks, 42)))
    assert entry == {"image_id": 42, "category_id": 1, "bbox": [0.1, 0.5, 5.15, 2.5], "score": 0.9, **expected}
