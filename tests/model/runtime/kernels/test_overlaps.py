"""Pixels in common, against masks that are decoded whole."""

from __future__ import annotations

import numpy as np
import pytest

from model.runtime.kernels import overlaps
from model.runtime.kernels.overlaps import common_pixels
from model.runtime.kernels.rle import encode_bitmap


@pytest.mark.parametrize("at_once", [3, 1000])
def test_counts_are_those_of_bitmaps(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlaps, "AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    picture = np.zeros((12, 60, 70), np.bool_)
    masks, corners = [], []
    for number, whole in enumerate(picture):
        top, left = rng.integers(0, 30, 2)
        height, width = rng.integers(1, 30, 2)
        bitmap = rng.random((height, width)) < (0.0, 0.1, 0.5, 0.9, 1.0)[number % 5]
        whole[top : top + height, left : left + width] = bitmap
        masks.append(encode_bitmap(bitmap))
        corners.append((top, left))
    pairs = rng.integers(0, 12, (300, 2))
    sides = rng.integers(1, 40, (300, 2))
    windows = np.column_stack([rng.integers(0, 60 - np.minimum(sides, 59)), sides])
    counts = common_pixels(masks, np.array(corners), pairs, windows)
    assert counts.shape == (300, 3)
    assert (counts[:, 2] > 0).sum() > 20
    for (first, second), (top, left, height, width), count in zip(pairs, windows, counts, strict=True):
        a, b = (picture[number, top : top + height, left : left + width] for number in (first, second))
        assert count.tolist() == [a.sum(), b.sum(), (a & b).sum()]


def test_no_pairs_have_no_counts() -> None:
    none = np.zeros((0, 2), np.int64)
    assert common_pixels([], none, none, np.zeros((0, 4), np.int64)).shape == (0, 3)
