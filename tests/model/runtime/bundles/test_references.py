"""Reference images with their answers, as a bundle keeps them: small, whole, and hashed as everything else."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.runtime.bundles.bundle import Bundle, DamagedFile, ManifestDraft, open_bundle, publish_bundle
from model.runtime.bundles.references import REFERENCES_FILE, Answers, References, read_references, to_bytes
from model.runtime.detections import RawDetections


def found(task: str) -> RawDetections:
    """Two detections in image 0, none in image 1, one in image 2."""
    draw = np.random.default_rng(0)
    maps = np.zeros((3, 2, 56, 56), np.float32)
    maps[:, 0, 3, 5], maps[:, 1, 55, 0] = 2.0, 7.0
    return RawDetections(
        boxes=draw.random((3, 4), np.float32),
        scores=np.array([0.9, 0.3, 0.5], np.float32),
        labels=np.array([1, 2, 1]),
        image_index=np.array([0, 0, 2]),
        masks=draw.random((3, 28, 28), np.float32) if "masks" in task else None,
        keypoint_heatmaps=maps if "keypoints" in task else None,
    )


def references(task: str = "masks") -> References:
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 64, 3), np.uint8)
    return References(images, np.array([[32, 64], [20, 64], [31, 33]]), 0.25, Answers.of(found(task)))


@pytest.fixture
def publish(staging: Path, draft: ManifestDraft, tmp_path: Path) -> Any:
    def of(content: bytes | None) -> Bundle:
        if content is not None:
            (staging / REFERENCES_FILE).write_bytes(content)
        return publish_bundle(staging, draft, tmp_path / "repository", "tiny")

    return of


@pytest.mark.parametrize("task", ["boxes", "masks", "keypoints", "masks_keypoints"])
def test_they_are_read_as_they_were_written(publish: Any, task: str) -> None:
    written = references(task)
    read = read_references(publish(to_bytes(written)))
    assert read is not None
    assert (len(read), read.score_threshold) == (3, 0.25)
    np.testing.assert_array_equal(read.images, written.images)
    np.testing.assert_array_equal(read.sizes, written.sizes)
    for field in dataclasses.fields(Answers):
        one, other = getattr(read.answers, field.name), getattr(written.answers, field.name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    assert [len(read.answers.of_image(index).scores) for index in range(3)] == [2, 0, 1]


def test_masks_and_heatmaps_are_kept_in_less_room() -> None:
    raw = found("masks_keypoints")
    answers = Answers.of(raw)
    assert raw.masks is not None
    assert answers.masks is not None
    np.testing.assert_allclose(answers.masks / 255, raw.masks, atol=0.5 / 255 + 1e-6)
    assert answers.peaks is not None
    assert answers.peaks.tolist() == [[[3, 5], [55, 0]]] * 3


def test_the_same_references_are_the_same_bytes() -> None:
    assert to_bytes(references()) == to_bytes(references())


def test_a_bundle_of_before_has_none(publish: Any) -> None:
    assert read_references(publish(None)) is None


def test_what_was_changed_after_publishing_is_not_believed(publish: Any) -> None:
    bundle = publish(to_bytes(references()))
    file = bundle.file(REFERENCES_FILE)
    lenient = dataclasses.replace(references(), score_threshold=0.99)
    file.write_bytes(to_bytes(lenient))
    with pytest.raises(DamagedFile, match=r"references\.npz"):
        open_bundle(bundle.path)
    with pytest.raises(DamagedFile, match=r"references\.npz was changed after publishing"):
        read_references(bundle)


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.array([{"code": print}], object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"references", id="something else"),
        pytest.param(to_bytes(references())[:-200], id="cut short"),
        pytest.param(pickled(), id="code"),
        pytest.param(to_bytes(dataclasses.replace(references(), sizes=np.array([[32, 64]]))), id="sizes of fewer"),
        pytest.param(
            to_bytes(dataclasses.replace(references(), sizes=np.array([[33, 64]] * 3))), id="sizes beyond the images"
        ),
        pytest.param(
            to_bytes(dataclasses.replace(references(), images=np.zeros((3, 32, 64, 4), np.uint8))), id="other channels"
        ),
        pytest.param(
            to_bytes(dataclasses.replace(references(), images=np.zeros((3, 32, 64, 3), np.float32))), id="no pixels"
        ),
        pytest.param(
            to_bytes(
                dataclasses.replace(
                    references(), answers=dataclasses.replace(Answers.of(found("masks")), scores=np.ones(1, np.float32))
                )
            ),
            id="scores of fewer",
        ),
    ],
)
def test_what_is_no_references_is_told(publish: Any, content: bytes) -> None:
    with pytest.raises(DamagedFile, match=r"references\.npz holds no reference images with their answers \(.*\); exp"):
        read_references(publish(content))
