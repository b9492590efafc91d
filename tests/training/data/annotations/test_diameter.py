"""The size of a dataset's objects, as the network sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.architecture import ArchitectureConfig
from model.runtime.kernels.rle import encode_bitmap
from training.data.annotations.dataset import Category, Dataset
from training.data.annotations.diameter import median_diameter
from training.data.annotations.records import Annotations, ImageRecord


def dataset(size: tuple[int, int], sides: list[int], crowd: int = 0) -> Dataset:
    """One image (height, width) with squares of these sides, the last `crowd` of them crowd regions."""
    masks = []
    for side in sides:
        mask = np.zeros(size, np.bool_)
        mask[:side, :side] = True
        masks.append(encode_bitmap(mask))
    count = len(sides)
    xywh = np.array([(0, 0, side, side) for side in sides], np.float64).reshape(-1, 4)
    crowds = np.arange(count) >= count - crowd
    ids = np.arange(1, count + 1)
    annotations = Annotations(ids, xywh, np.ones(count, np.int64), crowds, xywh[:, 2] ** 2, masks)
    image = ImageRecord(1, Path("a.png"), size[1], size[0], "a.png")
    return Dataset("train", Path(), (Category(1, "square"),), [image], [annotations])


CIRCLE = (4 / np.pi) ** 0.5
"""The diameter of a circle as large as a square of side 1."""


@pytest.mark.parametrize(
    ("size", "sides", "crowd", "settings", "expected", "why"),
    [
        ((100, 200), [10, 20, 30], 0, {}, 20 * CIRCLE, "the picture's own pixels"),
        ((100, 200), [10, 20, 30, 90, 90], 2, {}, 20 * CIRCLE, "crowd regions are no objects"),
        ((50, 100), [10], 0, {}, 20 * CIRCLE, "a small picture is enlarged to min_size"),
        ((400, 800), [10], 0, {}, 10 * CIRCLE, "a large one is served in tiles"),
        ((400, 800), [10], 0, {"allow_downscale": True}, 2.5 * CIRCLE, "or shrunk to min_size"),
        ((400, 1600), [16], 0, {"allow_downscale": True}, 2 * CIRCLE, "or to max_size"),
        ((100, 200), [10, 20, 30], 0, {"task": "boxes"}, 20, "without masks the ellipse in the box"),
        ((100, 200), [], 0, {}, None, "no objects"),
        ((100, 200), [10], 1, {}, None, "nothing but a crowd"),
    ],
)
def test_the_median_is_in_pixels_of_the_networks_input(
    size: tuple[int, int],
    sides: list[int],
    crowd: int,
    settings: dict[str, object],
    expected: float | None,
    why: str,
) -> None:
    config = {"min_size": 100, "max_size": 200, "allow_downscale": False} | settings
    architecture = ArchitectureConfig.model_validate(config)
    assert median_diameter(dataset(size, sides, crowd), architecture) == (
        None if expected is None else pytest.approx(expected, abs=0.006)
    ), why
