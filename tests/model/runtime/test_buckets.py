"""Few sizes that hold every image and little more."""

from __future__ import annotations

import pytest

from model.runtime.buckets import GROWTH, Buckets
from model.runtime.images.picture import Size
from model.runtime.preprocess import Preprocessing

COCO = Preprocessing()
NUCLEI = Preprocessing(min_size=256, max_size=1536, allow_downscale=False)


@pytest.mark.parametrize(
    ("preprocessing", "size", "bucket"),
    [
        pytest.param(COCO, (800, 1088), (800, 1120), id="a photograph of 4 to 3"),
        pytest.param(COCO, (1344, 768), (1344, 800), id="9 to 16"),
        pytest.param(COCO, (32, 1344), (32, 1344), id="a line"),
        pytest.param(COCO, (320, 320), (320, 320), id="asked for at a small scale"),
        pytest.param(NUCLEI, (512, 640), (576, 704), id="at its own scale"),
        pytest.param(NUCLEI, (1536, 1536), (1536, 1536), id="the largest"),
    ],
)
def test_the_next_larger_one(preprocessing: Preprocessing, size: Size, bucket: Size) -> None:
    assert Buckets(preprocessing).of(size) == bucket
    assert Buckets(preprocessing).of(bucket) == bucket


@pytest.mark.parametrize("preprocessing", [COCO, NUCLEI, Preprocessing(min_size=64, max_size=64)])
def test_every_image_has_one_of_few_and_usual_ones_grow_by_little(preprocessing: Preprocessing) -> None:
    buckets, fine = Buckets(preprocessing), preprocessing.buckets()
    step = preprocessing.bucket_step
    for size in fine:
        for side, padded in zip(size, buckets.of(size), strict=True):
            assert padded >= side
            assert padded % step == 0
            if side >= preprocessing.min_size:
                assert padded < side * GROWTH + step
    assert len(buckets.all) <= min(150, len(fine))
    assert set(buckets.commonest) <= set(buckets.all)
    assert buckets.all[0] == max(buckets.all, key=lambda size: size[0] * size[1])


def test_what_no_image_is_padded_to_is_refused() -> None:
    with pytest.raises(ValueError, match="an image of 1376x800 is larger than the model's longest side 1344"):
        Buckets(COCO).of((1376, 800))
