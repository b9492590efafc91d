"""Pictures of any size into their bucket, and what is found there back into the picture."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.runtime.detections import RawDetections
from model.runtime.preprocess import Prepared, Preprocessing, prepare, to_original
from tests.resilience.properties.pictures import sizes


@st.composite
def preprocessings(draw: st.DrawFn, longest: int = 900) -> Preprocessing:
    min_size = draw(st.integers(1, longest))
    return Preprocessing(
        min_size=min_size,
        max_size=draw(st.integers(min_size, longest)),
        allow_downscale=draw(st.booleans()),
        bucket_step=32 * draw(st.integers(1, 4)),
    )


@given(preprocessings(), sizes(5000), st.one_of(st.none(), st.floats(0.01, 8)))
def test_a_picture_keeps_its_shape_and_fits_its_bucket(
    preprocessing: Preprocessing, size: tuple[int, int], scale: float | None
) -> None:
    valid, bucket = preprocessing.resized(size, scale), preprocessing.bucket(size, scale)
    assert min(valid) >= 1
    assert max(valid) <= preprocessing.max_size
    by = scale or preprocessing.min_size / min(size)
    if scale is None and not preprocessing.allow_downscale:
        by = max(by, 1.0)
    by = min(by, preprocessing.max_size / max(size))
    for length, seen, padded in zip(size, valid, bucket, strict=True):
        assert abs(seen - length * by) <= 0.5 + 1e-6 or seen == 1
        assert padded % preprocessing.bucket_step == 0
        assert seen <= padded < seen + preprocessing.bucket_step
    if scale is None:
        assert bucket in preprocessing.buckets()
    if by == 1:
        assert valid == size


@given(preprocessings(90), sizes(120), st.integers(1, 255))
def test_a_picture_of_one_color_stays_so_in_its_corner_and_nothing_is_around_it(
    preprocessing: Preprocessing, size: tuple[int, int], value: int
) -> None:
    prepared = prepare(np.full((*size, 3), value, np.uint8), preprocessing)
    height, width = prepared.valid
    assert (prepared.pixels[:height, :width] == value).all()
    assert prepared.pixels.astype(np.int64).sum() == 3 * value * height * width


@given(preprocessings(), sizes(5000), st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5))
def test_boxes_come_back(
    preprocessing: Preprocessing, size: tuple[int, int], shares: list[tuple[float, float, float, float]]
) -> None:
    """Given as shares of the picture's width and height."""
    height, width = size
    valid = preprocessing.resized(size)
    corners = np.sort(np.array(shares).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    raw = RawDetections(
        (corners * [valid[1], valid[0], valid[1], valid[0]]).astype(np.float32),
        np.linspace(0.9, 0.1, len(shares), dtype=np.float32),
        np.ones(len(shares), np.int64),
        np.zeros(len(shares), np.int64),
    )
    found = to_original(raw, Prepared(np.zeros((1, 1, 3), np.uint8), valid, size))
    assert np.allclose(found.boxes, corners * [width, height, width, height], rtol=1e-5, atol=1e-3)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [width, height, width, height]).all()
