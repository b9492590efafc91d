"""Which images go into a bundle with their answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from model.runtime.detections import RawDetections
from model.runtime.engines.engine import Engine
from model.runtime.preprocess import Preprocessing
from training.publishing.references import LONGEST_SIDE, REFERENCE_IMAGES, choose_references

Score = Callable[[int], float]


class Known:
    """Finds the whole image, with a score that its first pixel gives."""

    name, device = "known", "cpu"

    def __init__(self, score: Score) -> None:
        self._score = score

    def run(
        self, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections:
        scores = np.array([self._score(int(image[0, 0, 0])) for image in images], np.float32)
        found = np.flatnonzero(scores > score_threshold)
        boxes = np.concatenate((np.zeros_like(sizes), sizes[:, ::-1]), axis=1)[found].astype(np.float32)
        return RawDetections(boxes, scores[found], np.ones(len(found), np.int64), found)

    def close(self) -> None:
        pass


def images(*first: int, size: tuple[int, int] = (40, 50)) -> list[NDArray[np.uint8]]:
    made = []
    for number, value in enumerate(first):
        image = np.full((size[0] + number, size[1], 3), 9, np.uint8)
        image[:2, :2] = value
        made.append(image)
    return made


def bright(value: int) -> float:
    return value / 255


@pytest.mark.parametrize(
    ("given", "half", "kept"),
    [
        pytest.param([200, 100], bright, [200, 100], id="what is found"),
        pytest.param([200, 0, 100], bright, [200, 100], id="not where there is nothing"),
        pytest.param([200, 100], lambda value: bright(value) + 0.1 * (value == 200), [100], id="not what half changes"),
        pytest.param([200, 100], lambda value: bright(value) + 0.005, [200, 100], id="what half changes little"),
        pytest.param([200, 101, 102, 103, 104, 105], bright, [200, 101, 102, 103], id="no more than are needed"),
    ],
)
def test_images_that_tell_something(given: list[int], half: Score, kept: list[int]) -> None:
    preprocessing = Preprocessing(min_size=32, max_size=128, allow_downscale=False)
    exact: Engine = Known(bright)
    references = choose_references(images(*given), preprocessing, exact, Known(half))
    assert references is not None
    assert references.images[:, 0, 0, 0].tolist() == kept
    assert len(references) <= REFERENCE_IMAGES
    np.testing.assert_allclose(references.answers.scores, np.array(kept) / 255, rtol=1e-6)
    assert references.sizes[:, 1].tolist() == [50] * len(kept)


def test_without_any_there_are_none() -> None:
    seen = Preprocessing(min_size=32, max_size=128, allow_downscale=False)
    assert choose_references(images(0, 0), seen, Known(bright), Known(bright)) is None


def test_the_smallest_come_first_and_of_large_ones_the_middle_as_the_network_sees_it() -> None:
    seen = Preprocessing(min_size=500, max_size=800)
    large = [np.full((1000, 1400, 3), 255, np.uint8), np.full((250, 300, 3), 128, np.uint8)]
    references = choose_references(large, seen, Known(bright), Known(bright))
    assert references is not None
    assert references.images[:, 0, 0, 0].tolist() == [128, 255]
    assert references.sizes.tolist() == [[LONGEST_SIDE, LONGEST_SIDE]] * 2
    height, width = references.images.shape[1:3]
    assert height >= LONGEST_SIDE
    assert width >= LONGEST_SIDE
    assert height % 32 == width % 32 == 0
