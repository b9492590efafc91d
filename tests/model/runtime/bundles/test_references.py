"""Reference images with their answers, as a bundle keeps them: small, whole, and hashed as everything else."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.runtime.bundles import references as module
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
    def of(content: bytes | None, task: str = "masks") -> Bundle:
        if content is not None:
            (staging / REFERENCES_FILE).write_bytes(content)
        architecture = draft.architecture.model_copy(update={"task": task, "num_keypoints": 2})
        points = ("left", "right") if "keypoints" in task else ()
        known = draft.model_copy(update={"architecture": architecture, "keypoint_names": points})
        return publish_bundle(staging, known, tmp_path / "repository", "tiny")

    return of


@pytest.mark.parametrize("task", ["boxes", "masks", "keypoints", "masks_keypoints"])
def test_they_are_read_as_they_were_written(publish: Any, task: str) -> None:
    written = references(task)
    read = read_references(publish(to_bytes(written), task))
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


def with_(**arrays: Any) -> bytes:
    """The references with other arrays; None leaves one out."""
    with np.load(io.BytesIO(to_bytes(references()))) as known:
        changed = {name: known[name] for name in known.files} | arrays
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: values for name, values in changed.items() if values is not None})
    return buffer.getvalue()


def overwritten(content: bytes) -> bytes:
    """In the middle of what is compressed."""
    return content[:60] + b"\xff" * 20 + content[80:]


def holding(name: str, content: bytes) -> bytes:
    """An archive of one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def of_one_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, references().images)
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
        pytest.param(overwritten(to_bytes(references())), id="overwritten"),
        pytest.param(overwritten(holding("images.npy", bytes(100_000))), id="overwritten where it is compressed well"),
        pytest.param(of_one_array(), id="one array"),
        pytest.param(holding("images.txt", b"references"), id="text"),
        pytest.param(holding("images", b"references"), id="no array of that name"),
        pytest.param(with_(scores=None), id="no scores"),
        pytest.param(with_(masks=None), id="masks that the network has"),
        pytest.param(with_(masks=np.zeros((3, 28), np.uint8)), id="masks without a side"),
        pytest.param(with_(labels=np.array(["1", "2", "1"])), id="names for labels"),
        pytest.param(with_(boxes=np.full((3, 4), np.nan, np.float32)), id="boxes that are no numbers"),
        pytest.param(with_(scores=np.full(3, np.nan, np.float32)), id="scores that are no numbers"),
        pytest.param(with_(score_threshold=np.array(np.nan)), id="a threshold that is no number"),
        pytest.param(with_(score_threshold=np.array([0.25, 0.5])), id="two thresholds"),
        pytest.param(with_(score_threshold=np.array(0.95)), id="a threshold that nothing exceeds"),
        pytest.param(with_(image_index=np.array([0, 0, 3])), id="an image that is not there"),
        pytest.param(with_(image_index=np.array([0, 0, -1])), id="an image before the first"),
        pytest.param(with_(images=np.zeros((0, 32, 64, 3), np.uint8), sizes=np.zeros((0, 2), np.int64)), id="no image"),
    ],
)
def test_what_is_no_references_is_told(publish: Any, content: bytes) -> None:
    with pytest.raises(DamagedFile, match=r"references\.npz holds no reference images with their answers \(.*\); exp"):
        read_references(publish(content))


def test_what_is_too_large_unpacked_is_not_unpacked(publish: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1_000_000)
    bundle = publish(holding("images.npy", bytes(1_000_001)))
    with pytest.raises(DamagedFile, match="unpacked it has 1000001 bytes, of at most 1000000"):
        read_references(bundle)
