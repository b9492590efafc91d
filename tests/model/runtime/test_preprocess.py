"""Images go into buckets and detections come back in the image's own pixels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from model.architecture import ArchitectureConfig
from model.runtime.detections import RawDetections
from model.runtime.images.values.intensity import Intensity
from model.runtime.kernels.masks import decode
from model.runtime.preprocess import Prepared, Preprocessing, prepare, stack, to_original
from tests.model.runtime.images.pictures import ramp

KEEP = Preprocessing(min_size=64, max_size=300, allow_downscale=False)
# (what it is, preprocessing, image, resized, bucket), sizes as (height, width)
SIZES = [
    ("fits as it is", Preprocessing(min_size=64, max_size=128), (64, 96), (64, 96), (64, 96)),
    ("enlarged to the shorter side", Preprocessing(min_size=64, max_size=128), (32, 48), (64, 96), (64, 96)),
    ("shrunk to the shorter side", Preprocessing(min_size=64, max_size=128), (200, 300), (64, 96), (64, 96)),
    ("limited by the longer side", Preprocessing(min_size=64, max_size=128), (100, 400), (32, 128), (32, 128)),
    ("not shrunk", KEEP, (200, 300), (200, 300), (224, 320)),
    ("not shrunk, but enlarged", KEEP, (32, 48), (64, 96), (64, 96)),
    ("not shrunk, unless the longer side is too long", KEEP, (200, 600), (100, 300), (128, 320)),
    ("rounded to the nearest pixel", Preprocessing(min_size=64, max_size=999), (3, 5), (64, 107), (64, 128)),
    ("half a pixel rounds up", Preprocessing(min_size=65, max_size=999), (2, 3), (65, 98), (96, 128)),
    ("one pixel", Preprocessing(min_size=64, max_size=128), (1, 1), (64, 64), (64, 64)),
    ("a thread, lying", Preprocessing(), (1, 5000), (1, 1333), (32, 1344)),
    ("a thread, standing", Preprocessing(), (5000, 1), (1333, 1), (1344, 32)),
    ("COCO's usual", Preprocessing(), (480, 640), (800, 1067), (800, 1088)),
    ("a coarser bucket", Preprocessing(min_size=64, max_size=128, bucket_step=128), (32, 48), (64, 96), (128, 128)),
]


@pytest.mark.parametrize(
    ("preprocessing", "size", "resized", "bucket"), [r[1:] for r in SIZES], ids=[r[0] for r in SIZES]
)
def test_sizes(
    preprocessing: Preprocessing, size: tuple[int, int], resized: tuple[int, int], bucket: tuple[int, int]
) -> None:
    assert preprocessing.resized(size) == resized
    assert preprocessing.bucket(size) == bucket
    prepared = prepare(ramp(*size), preprocessing)
    assert (prepared.valid, prepared.original, prepared.bucket) == (resized, size, bucket)
    assert prepared.pixels.dtype == np.uint8
    assert prepared.pixels.shape == (*bucket, 3)
    assert not prepared.pixels[resized[0] :].any()
    assert not prepared.pixels[:, resized[1] :].any()
    assert (prepared.pixels[: resized[0], : resized[1], 2] == 9).all()


def test_resizing_keeps_the_picture() -> None:
    preprocessing = Preprocessing(min_size=64, max_size=128)
    for size in ((31, 47), (200, 300)):
        prepared = prepare(ramp(*size), preprocessing)
        inside = prepared.pixels[: prepared.valid[0], : prepared.valid[1]].astype(int)
        assert np.abs(inside - ramp(*prepared.valid)).mean() < 4


def test_no_copy_of_an_image_that_fits() -> None:
    image = ramp(64, 96)
    prepared = prepare(image, Preprocessing(min_size=64, max_size=128))
    assert np.shares_memory(prepared.pixels, image)
    assert np.shares_memory(stack([prepared])[0], image)


def test_from_architecture() -> None:
    config = ArchitectureConfig(min_size=256, max_size=1024, allow_downscale=False)
    expected = Preprocessing(min_size=256, max_size=1024, allow_downscale=False, reduced_decoding=True)
    assert Preprocessing.from_architecture(config) == expected
    wish = Intensity(mode="percentile", high=99)
    assert Preprocessing.from_architecture(config, wish).intensity == wish


def test_a_manifest_of_before_means_what_it_meant() -> None:
    old = {"min_size": 256, "max_size": 1024, "allow_downscale": False, "bucket_step": 32}
    preprocessing = Preprocessing.model_validate(old)
    assert preprocessing.intensity == Intensity()
    assert preprocessing.reduced_decoding is False
    assert "reduced_decoding" not in preprocessing.model_dump()  # its hash stays


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_size": 100, "max_size": 99}, r"max_size \(99\) is smaller than min_size \(100\)"),
        ({"bucket_step": 48}, "multiple of 32"),
        ({"min_size": 0}, "greater than or equal to 1"),
        ({"mean": 0.5}, "Extra inputs"),
    ],
)
def test_impossible_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Preprocessing(**settings)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=["gray", "four channels", "float", "empty"],
)
def test_only_uint8_rgb(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"an image is uint8 \[H, W, 3\]"):
        prepare(image, Preprocessing())


def test_stack() -> None:
    preprocessing = Preprocessing(min_size=64, max_size=128)
    batch = [prepare(ramp(*size), preprocessing) for size in ((64, 90), (64, 96), (30, 45))]
    images, sizes = stack(batch)
    assert (images.shape, images.dtype) == ((3, 64, 96, 3), np.uint8)
    assert sizes.dtype == np.int64
    assert sizes.tolist() == [[64, 90], [64, 96], [64, 96]]
    for image, prepared in zip(images, batch, strict=True):
        np.testing.assert_array_equal(image, prepared.pixels)


def test_stack_refuses_what_is_no_batch() -> None:
    preprocessing = Preprocessing(min_size=64, max_size=128)
    with pytest.raises(ValueError, match=r"one bucket, not of \[\(64, 64\), \(64, 96\)\]"):
        stack([prepare(ramp(64, 64), preprocessing), prepare(ramp(64, 96), preprocessing)])
    with pytest.raises(ValueError, match="not of none"):
        stack([])


def detections(count: int = 4, side: int = 64) -> RawDetections:
    """Boxes of growing size from (2i, i), falling scores, labels 1, 2, 1, 2..., masks of growing probability."""
    index = np.arange(count)
    boxes = np.stack([2 * index, index, 2 * index + 20, index + 10], axis=1).astype(np.float32)
    scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
    masks = np.full((count, 28, 28), 0.75, np.float32)
    return RawDetections(boxes, scores, (index % 2 + 1).astype(np.int64), np.zeros(count, np.int64), masks)


def placed(valid: tuple[int, int], original: tuple[int, int]) -> Prepared:
    return Prepared(np.zeros((64, 64, 3), np.uint8), valid, original)


def test_way_back_scales_each_side_by_its_own_factor() -> None:
    found = to_original(detections(), placed(valid=(50, 60), original=(100, 180)))
    raw = detections()
    np.testing.assert_allclose(found.boxes, raw.boxes * [3, 2, 3, 2], rtol=1e-6)
    assert found.boxes.dtype == np.float32
    np.testing.assert_array_equal(found.scores, raw.scores)
    assert found.keypoints is None
    assert found.masks is not None
    for mask, (x1, y1, x2, y2) in zip(found.masks, found.boxes.astype(int), strict=True):
        full = decode(mask)
        assert full.shape == (100, 180)
        assert full[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].all()
        assert not full[y2 + 3 :].any()
        assert not full[:, x2 + 3 :].any()


def test_way_back_clips_to_the_image() -> None:
    raw = RawDetections(
        np.array([[-3, -2, 70, 60]], np.float32), np.ones(1, np.float32), np.ones(1, np.int64), np.zeros(1, np.int64)
    )
    assert to_original(raw, placed((50, 60), (100, 180))).boxes.tolist() == [[0, 0, 180, 100]]


CHOICES = [
    # (what it is, options, the rows that stay)
    ("everything", {}, [0, 1, 2, 3]),
    ("the best two", {"max_detections": 2}, [0, 1]),
    ("more than there are", {"max_detections": 9}, [0, 1, 2, 3]),
    ("one label", {"labels": {2}}, [1, 3]),
    ("a label, then the best", {"labels": [1], "max_detections": 1}, [0]),
    ("the best of the second label, not the second of the best", {"labels": [2], "max_detections": 1}, [1]),
    ("no label at all", {"labels": ()}, []),
    ("a label that is not there", {"labels": [7]}, []),
]


@pytest.mark.parametrize(("options", "rows"), [row[1:] for row in CHOICES], ids=[row[0] for row in CHOICES])
def test_choosing(options: dict[str, object], rows: list[int]) -> None:
    raw, prepared = detections(), placed((64, 64), (64, 64))
    found = to_original(raw, prepared, **options)  # type: ignore[arg-type]
    everything = to_original(raw, prepared)
    np.testing.assert_array_equal(found.scores, raw.scores[rows])
    np.testing.assert_array_equal(found.labels, raw.labels[rows])
    np.testing.assert_array_equal(found.boxes, raw.boxes[rows])
    assert everything.masks is not None
    assert found.masks == [everything.masks[row] for row in rows]
    assert len(found) == len(rows)


def test_masks_only_when_asked_for() -> None:
    found = to_original(detections(), placed((64, 64), (64, 64)), want_masks=False)
    assert found.masks is None
    assert len(found) == 4


def test_nothing_found() -> None:
    found = to_original(detections(0), placed((64, 64), (64, 64)))
    assert found.boxes.shape == (0, 4)
    assert found.masks == []


def test_way_back_equals_torchvision() -> None:
    """Boxes, masks and keypoints as GeneralizedRCNNTransform.postprocess has them, at sizes that do not divide."""
    import torch
    from pycocotools import mask as coco
    from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, paste_masks_in_image
    from torchvision.models.detection.transform import resize_boxes, resize_keypoints

    random = np.random.default_rng(0)
    corner = random.uniform(0, 30, (6, 2))
    boxes = np.concatenate([corner, corner + random.uniform(3, 25, (6, 2))], axis=1).astype(np.float32)
    masks = random.uniform(0, 1, (6, 28, 28)).astype(np.float32)
    heatmaps = random.normal(0, 3, (6, 2, 56, 56)).astype(np.float32)
    valid, original = (57, 61), (101, 140)
    common = (np.ones(6, np.float32), np.ones(6, np.int64), np.zeros(6, np.int64))

    expected_boxes = resize_boxes(torch.from_numpy(boxes), list(valid), list(original))
    found = to_original(RawDetections(boxes, *common, masks=masks), placed(valid, original))
    np.testing.assert_allclose(found.boxes, expected_boxes, rtol=1e-6)
    pasted = paste_masks_in_image(torch.from_numpy(masks)[:, None], expected_boxes, original)[:, 0] > 0.5
    assert found.masks is not None
    assert [mask.counts for mask in found.masks] == [
        coco.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))["counts"] for mask in pasted
    ]

    keypoints, _ = heatmaps_to_keypoints(torch.from_numpy(heatmaps), torch.from_numpy(boxes))
    found = to_original(RawDetections(boxes, *common, keypoint_heatmaps=heatmaps), placed(valid, original))
    assert found.keypoints is not None
    expected = resize_keypoints(keypoints, list(valid), list(original))
    np.testing.assert_allclose(found.keypoints[..., :2], expected[..., :2], rtol=1e-5)


@pytest.mark.parametrize(
    "preprocessing",
    [
        pytest.param(Preprocessing(), id="the paper's"),
        pytest.param(Preprocessing(min_size=96, max_size=200, allow_downscale=False), id="never shrunk"),
        pytest.param(Preprocessing(min_size=50, max_size=50), id="squares"),
        pytest.param(Preprocessing(min_size=64, max_size=300, bucket_step=64), id="coarse buckets"),
    ],
)
def test_every_bucket_that_an_image_can_get_is_listed_and_no_other(preprocessing: Preprocessing) -> None:
    generator = np.random.default_rng(0)
    sizes = np.exp(generator.uniform(0, np.log(5000), (60_000, 2))).astype(int)
    seen = {preprocessing.bucket((height, width)) for height, width in sizes.tolist()}
    listed = preprocessing.buckets()
    assert set(listed) == seen
    assert len(listed) == len(seen)
    areas = [height * width for height, width in listed]
    assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize("channels", [1, 2, 5, 16])
def test_each_channel_is_resized_as_in_an_rgb_picture(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, channels), np.uint8)
    config = Preprocessing(min_size=32, max_size=64, channels=channels)
    prepared = prepare(pixels, config)
    assert prepared.pixels.shape == (*config.bucket((50, 70)), channels)
    for channel in range(channels):
        alone = prepare(
            np.repeat(pixels[..., channel : channel + 1], 3, axis=2), Preprocessing(min_size=32, max_size=64)
        )
        np.testing.assert_array_equal(prepared.pixels[..., channel], alone.pixels[..., 1])
    with pytest.raises(ValueError, match=rf"an image is uint8 \[H, W, {channels}\]"):
        prepare(np.zeros((8, 8, channels + 1), np.uint8), config)


def test_preprocessing_of_rgb_says_nothing_of_channels() -> None:
    assert "channels" not in Preprocessing().model_dump()
    assert Preprocessing.from_architecture(ArchitectureConfig(channels=2)).model_dump()["channels"] == 2


def test_an_image_of_neither_size_is_refused() -> None:
    preprocessing = Preprocessing(min_size=50, max_size=300)
    assert prepare(ramp(50, 75), preprocessing, (400, 600)).original == (400, 600)
    for size in ((50, 76), (100, 150)):
        with pytest.raises(ValueError, match=r"\[400, 600\] pixels is seen as \[50, 75\]"):
            prepare(ramp(*size), preprocessing, (400, 600))


@pytest.mark.parametrize(
    ("size", "scale", "resized", "why"),
    [
        ((100, 150), 1.0, (100, 150), "not enlarged to min_size"),
        ((100, 150), 0.5, (50, 75), "smaller"),
        ((100, 150), 2.0, (200, 300), "larger"),
        ((3, 50), 0.05, (1, 3), "at least a pixel"),
        ((300, 500), 2.0, (240, 400), "max_size wins"),
    ],
)
def test_a_scale_that_is_asked_for_stands_in_place_of_min_size(
    size: tuple[int, int], scale: float, resized: tuple[int, int], why: str
) -> None:
    for shrinks in (False, True):
        preprocessing = Preprocessing(min_size=200, max_size=400, allow_downscale=shrinks)
        prepared = prepare(np.full((*size, 3), 7, np.uint8), preprocessing, scale=scale)
        assert (prepared.valid, prepared.original) == (resized, size), why
        assert prepared.bucket == preprocessing.bucket(size, scale)
        assert (prepared.pixels[: resized[0], : resized[1]] == 7).all()
