"""Decoded keypoints equal torchvision's."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints

from model.runtime.kernels.keypoints import decode_keypoints

Floats = NDArray[np.float32]


def reference(heatmaps: Floats, boxes: Floats) -> Floats:
    points, scores = heatmaps_to_keypoints(torch.from_numpy(heatmaps), torch.from_numpy(boxes))
    return np.concatenate((points[:, :, :2].numpy(), scores[:, :, None].numpy()), axis=2)


def peaks(rng: np.random.Generator, count: int, keypoints: int, side: int = 56) -> Floats:
    """What a keypoint head gives: a few bumps over a slowly changing, negative ground."""
    y, x = np.mgrid[:side, :side]
    maps = rng.normal(-8, 1, (count, keypoints, 1, 1)) + 0.05 * (x - y)
    for _ in range(3):
        center = rng.uniform(-3, side + 3, (2, count, keypoints, 1, 1))
        spread = rng.uniform(1, 8, (count, keypoints, 1, 1))
        height = rng.uniform(5, 20, (count, keypoints, 1, 1))
        maps = maps + height * np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * spread**2))
    return maps.astype(np.float32)


def boxes_of(rng: np.random.Generator, count: int, longest: float = 300) -> Floats:
    corner = rng.uniform(-20, 500, (count, 2))
    sides = np.exp(rng.uniform(np.log(0.3), np.log(longest), (count, 2)))
    return np.concatenate((corner, corner + sides), axis=1).astype(np.float32)


@pytest.mark.parametrize("kind", ["peaks", "noise", "small"])
def test_equals_torchvision(kind: str) -> None:
    rng = np.random.default_rng(11)
    for _ in range(12):
        boxes = boxes_of(rng, 8)
        if kind == "noise":  # the maximum can be anywhere, so nearly everything has to be searched
            heatmaps = rng.normal(0, 4, (8, 3, 56, 56)).astype(np.float32)
        else:
            heatmaps = peaks(rng, 8, 3, 56 if kind == "peaks" else 7)
        np.testing.assert_allclose(decode_keypoints(heatmaps, boxes), reference(heatmaps, boxes), atol=1e-3, rtol=0)


def one_hot(y: int, x: int) -> Floats:
    heat = np.zeros((56, 56), np.float32)
    heat[y, x] = 5
    return heat


RAMP = (np.arange(56)[:, None] + np.arange(56)[None]).astype(np.float32)
# (what it is, heatmap, box)
EDGES = [
    ("first corner", one_hot(0, 0), (10, 20, 110, 220)),
    ("last corner", one_hot(55, 55), (10, 20, 110, 220)),
    ("a border", one_hot(30, 0), (10, 20, 110, 220)),
    ("rising towards a corner", RAMP, (0, 0, 200, 100)),
    ("all negative", RAMP - 500, (0, 0, 200, 100)),
    ("a box of the heatmap's size", one_hot(3, 50), (0, 0, 56, 56)),
    ("sides that are no whole numbers", one_hot(20, 20), (0.3, 0.7, 80.9, 33.1)),
    ("a box below a pixel", one_hot(20, 20), (5, 5, 5.2, 5.3)),
    ("a box of no size", one_hot(20, 20), (5, 5, 5, 5)),
    ("corners in the wrong order", one_hot(20, 20), (9, 9, 5, 5)),
    ("one column", one_hot(20, 20), (5, 5, 6, 300)),
    ("smaller than the heatmap", RAMP, (5, 5, 20.5, 17)),
    ("a single negative dip", -one_hot(28, 28), (0, 0, 90, 120)),
]


@pytest.mark.parametrize(("heat", "box"), [case[1:] for case in EDGES], ids=[case[0] for case in EDGES])
def test_edge_case(heat: Floats, box: tuple[float, ...]) -> None:
    heatmaps, boxes = heat[None, None].astype(np.float32), np.array([box], np.float32)
    np.testing.assert_allclose(decode_keypoints(heatmaps, boxes), reference(heatmaps, boxes), atol=1e-3, rtol=0)


def test_flat_heatmap_gives_its_value_inside_the_box() -> None:
    x, y, score = decode_keypoints(np.full((1, 1, 56, 56), 2, np.float32), np.array([[10, 20, 50, 90]], np.float32))[
        0, 0
    ]
    assert 10 <= x <= 50
    assert 20 <= y <= 90
    assert score == pytest.approx(2, abs=1e-5)


def test_no_detections() -> None:
    found = decode_keypoints(np.zeros((0, 17, 56, 56), np.float32), np.zeros((0, 4), np.float32))
    assert found.shape == (0, 17, 3)
    assert found.dtype == np.float32


def test_read_only_strided_and_threads() -> None:
    rng = np.random.default_rng(2)
    heatmaps, boxes = peaks(rng, 8, 5), boxes_of(rng, 8)
    expected = decode_keypoints(heatmaps[::2].copy(), boxes[::2].copy())
    heatmaps.flags.writeable = boxes.flags.writeable = False
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: decode_keypoints(heatmaps[::2], boxes[::2]), range(20)):
            np.testing.assert_array_equal(found, expected)


def test_memory_does_not_grow_with_the_box() -> None:
    """Seventeen heatmaps upsampled to 48 megapixels would be 3 GB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    heatmaps = peaks(np.random.default_rng(4), 1, 1) * np.float32(50)
    found = decode_keypoints(heatmaps.repeat(17, axis=1), np.array([[0, 0, 8000, 6000]], np.float32))
    assert np.isfinite(found).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


# (what is wrong, heatmaps' shape, boxes, message)
WRONG = [
    ("no keypoint axis", (1, 56, 56), [[0, 0, 1, 1]], "heatmaps of shape"),
    ("not square", (1, 1, 56, 28), [[0, 0, 1, 1]], "heatmaps of shape"),
    ("a box too many", (1, 1, 56, 56), [[0, 0, 1, 1]] * 2, "boxes of shape"),
    ("NaN in a box", (1, 1, 56, 56), [[0, 0, np.nan, 1]], "box 0 is"),
]


@pytest.mark.parametrize(("shape", "boxes", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_wrong_input_is_refused(shape: tuple[int, ...], boxes: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_keypoints(np.zeros(shape, np.float32), np.array(boxes, np.float32))
