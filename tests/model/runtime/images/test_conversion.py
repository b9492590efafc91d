"""Pixels leave Pillow at once or in bands, all of them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from model.runtime.images.conversion import pixels

LARGE = [(2100, 1000), (3, 700_001), (2_100_000, 1)]
"""More than leaves at once."""


@pytest.mark.parametrize("size", [(1, 1), (700, 300), (3, 70_000), *LARGE], ids=str)
def test_bands(size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    np.testing.assert_array_equal(pixels(Image.fromarray(values)), values)
    np.testing.assert_array_equal(pixels(Image.fromarray(values[..., 0])), values[..., 0])
