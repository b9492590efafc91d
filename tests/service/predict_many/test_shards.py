"""Rows of models of every kind, to a shard's file and back, to the digit."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from pyarrow import parquet

from model.runtime.detections import RLE, Detections
from service.predict_many.merging import by_detection, detections_of
from service.predict_many.shards import Row, shards_in, to_parquet

NAMES = ("", "cell", "N/A", "N/A")
BOXES = np.array([[0.1, 2, 5.3, 7], [1, 1 / 3, 2, 3]], np.float32)
SCORES = np.array([0.9, 0.7], np.float32)
LABELS = np.array([3, 1])
MASKS = [RLE((4, 6), b"52a0"), RLE((4, 6), b"P1")]
KEYPOINTS = np.array([[[1, 2, 8.5], [3.1, 0, -1]], [[0, 0, 0.1], [4, 5, 6]]], np.float32)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(Detections(BOXES, SCORES, LABELS), id="boxes"),
        pytest.param(Detections(BOXES, SCORES, LABELS, MASKS), id="masks"),
        pytest.param(Detections(BOXES, SCORES, LABELS, None, KEYPOINTS), id="keypoints"),
        pytest.param(Detections(BOXES, SCORES, LABELS, MASKS, KEYPOINTS), id="both"),
    ],
)
@pytest.mark.parametrize("text_ids", [False, True])
def test_detections_come_back_as_they_were(found: Detections, text_ids: bool) -> None:
    nothing = Detections(BOXES[:0], SCORES[:0], LABELS[:0], None if found.masks is None else [])
    rows = [
        Row("bad.png", 3, error="not-an-image", detail="No image."),
        Row("a.png", 1, (4, 6), False, "{}", detections=found),
        Row("nothing.png", 2, (4, 6), False, "{}", detections=nothing),
    ]
    content = to_parquet(rows, NAMES, "digest", text_ids=text_ids)
    assert content == to_parquet(rows, NAMES, "digest", text_ids=text_ids)
    assert content != to_parquet(rows, NAMES, "other", text_ids=text_ids), "of another run"
    table = parquet.read_table(BytesIO(content))
    bad, back, empty = map(detections_of, table.to_pylist())
    assert len(bad) == len(empty) == 0
    for column in ("boxes", "scores", "labels"):
        assert np.array_equal(getattr(back, column), getattr(found, column))
    assert back.masks == found.masks
    assert (back.keypoints is None) == (found.keypoints is None)
    assert found.keypoints is None or np.array_equal(back.keypoints, found.keypoints)

    flat = by_detection(table).to_pylist()
    assert [row["image_id"] for row in flat] == (["3", "1", "1", "2"] if text_ids else [3, 1, 1, 2])
    assert [row["label"] for row in flat] == [None, "N/A", "cell", None]
    assert [row["detection"] for row in flat] == [None, 0, 1, None]
    assert [row["error"] for row in flat] == ["not-an-image", None, None, None]
    assert [row["mask"] for row in flat[1:3]] == (
        [None, None] if found.masks is None else [{"size": [4, 6], "counts": one.counts.decode()} for one in MASKS]
    )
    assert [row["keypoints"] for row in flat[1:3]] == ([None] * 2 if found.keypoints is None else KEYPOINTS.tolist())


def test_other_files_are_no_shards() -> None:
    names = {"part-000003.parquet", "part-1234567.parquet", ".maskserve-partial-part-000004.parquet", "part-5.parquet"}
    assert shards_in(names) == {3, 1234567}
