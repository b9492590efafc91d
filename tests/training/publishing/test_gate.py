"""The gate must let the same network through, and nothing else."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from model.runtime.detections import RawDetections
from model.runtime.preprocess import Preprocessing, prepare
from training.publishing.checks import GateError, require
from training.publishing.gate import BATCH_SIZES, Difference, Reference, compare, one_canvas


def raw() -> RawDetections:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 80, (5, 2)).astype(np.float32)
    return RawDetections(
        boxes=np.concatenate([corners, corners + 20], axis=1),
        scores=np.linspace(0.9, 0.3, 5, dtype=np.float32),
        labels=np.array([1, 2, 1, 1, 2]),
        image_index=np.zeros(5, np.int64),
        masks=rng.uniform(0, 1, (5, 28, 28)).astype(np.float32),
    )


def without_row(detections: RawDetections, row: int) -> RawDetections:
    keep = np.arange(5) != row
    assert detections.masks is not None
    return RawDetections(
        detections.boxes[keep],
        detections.scores[keep],
        detections.labels[keep],
        detections.image_index[keep],
        detections.masks[keep],
    )


def swapped(detections: RawDetections) -> RawDetections:
    """Rows 0 and 1 exchanged, as two scores within rounding of each other may be."""
    order = [1, 0, 2, 3, 4]
    assert detections.masks is not None
    return replace(
        detections,
        boxes=detections.boxes[order],
        scores=detections.scores[order],
        labels=detections.labels[order],
        masks=detections.masks[order],
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param(lambda d: d, None, id="the same"),
        pytest.param(swapped, None, id="the same in another order"),
        pytest.param(lambda d: replace(d, boxes=d.boxes + np.float32(0.01)), None, id="boxes within rounding"),
        pytest.param(lambda d: replace(d, boxes=d.boxes + np.float32(0.3)), "boxes differ", id="boxes moved"),
        pytest.param(lambda d: replace(d, scores=d.scores - np.float32(0.01)), "scores differ", id="scores moved"),
        pytest.param(lambda d: replace(d, masks=d.masks * np.float32(0.9)), "mask prob", id="masks fainter"),
        pytest.param(lambda d: replace(d, labels=d.labels % 2 + 1), "unmatched", id="labels exchanged"),
        pytest.param(lambda d: without_row(d, 2), "unmatched", id="one detection missing"),
    ],
)
def test_what_passes(change: Callable[[RawDetections], RawDetections], complaint: str | None) -> None:
    difference = Difference()
    compare(raw(), change(raw()), difference)
    if complaint is None:
        require("onnx", difference, {"mask/AP": 0.0005})
    else:
        with pytest.raises(GateError, match=complaint):
            require("onnx", difference, {})


class Answering:
    """Finds one box in each image, `shift` pixels from the corner, and counts its batches."""

    name, device = "known", "cpu"

    def __init__(self, shift: float = 0.0) -> None:
        self.shift, self.batches = shift, 0

    def run(self, images: NDArray[np.uint8], sizes: NDArray[np.int64], _: NDArray[np.float32]) -> RawDetections:
        self.batches += 1
        count = len(images)
        boxes = np.concatenate((np.zeros((count, 2)), sizes[:, ::-1]), axis=1).astype(np.float32) + np.float32(
            self.shift
        )
        scores, labels = np.full(count, 0.5, np.float32), np.ones(count, np.int64)
        return RawDetections(boxes, scores, labels, np.arange(count))

    def close(self) -> None:
        pass


def test_the_network_answers_each_batch_once_however_many_are_compared_with_it() -> None:
    network, moved, same = Answering(), Answering(0.25), Answering()
    images = [np.full((64, side, 3), side, np.uint8) for side in (64, 96, 128)]
    reference = Reference(network, images, Preprocessing(min_size=64, max_size=128))
    assert reference.compare(moved).box == 0.25
    steps: list[int] = []
    difference = reference.compare(same, steps.append)
    assert (difference.box, difference.detections, difference.unmatched) == (0, sum(BATCH_SIZES), 0)
    assert steps == [1, 2, 3, 4]
    assert network.batches == moved.batches == same.batches == len(BATCH_SIZES)


def test_ap_that_moves_fails() -> None:
    with pytest.raises(GateError, match=r"mask/AP changes by -0\.20 points"):
        require("onnx", Difference(), {"box/AP": 0.0, "mask/AP": -0.002})


def test_one_missing_against_none() -> None:
    difference = Difference()
    empty = RawDetections(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64)
    )
    compare(empty, empty, difference)
    require("onnx", difference, {})
    compare(empty, raw(), difference)
    with pytest.raises(GateError, match="unmatched"):
        require("onnx", difference, {})


def test_canvas_keeps_each_image_s_own_size() -> None:
    preprocessing = Preprocessing(min_size=64, max_size=200)
    images = [np.full((64, 64, 3), 10, np.uint8), np.full((80, 128, 3), 20, np.uint8)]
    pixels, sizes = one_canvas([prepare(image, preprocessing) for image in images])
    assert pixels.shape == (2, 64, 128, 3)
    assert sizes.tolist() == [[64, 64], [64, 102]]
    assert pixels[0, :, 64:].max() == 0
    assert pixels[1, 63, 101, 0] == 20


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        pytest.param(Difference(detections=7), "7 detections; no difference", id="the same"),
        pytest.param(
            Difference(detections=40, box=0.0123456789, score=1.1920928955078125e-07),
            "40 detections; largest differences: boxes 0.012 px, scores 1.2e-07",
            id="boxes and scores",
        ),
        pytest.param(
            Difference(detections=40, unmatched=3, mask=0.25, heatmap=0.5),
            "37 of 40 detections found again; largest differences: mask probabilities 0.25, "
            "keypoint heatmaps 0.5 logits",
            id="some are missing",
        ),
    ],
)
def test_a_difference_is_a_sentence(difference: Difference, said: str) -> None:
    assert str(difference) == said
