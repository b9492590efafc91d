"""Encoded masks equal torchvision's paste, threshold and pycocotools' encode."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from model.runtime.kernels.masks import area, decode, encode_masks, to_uncompressed

Size = tuple[int, int]
Floats = NDArray[np.float32]


def reference(masks: Floats, boxes: Floats, size: Size) -> NDArray[np.bool_]:
    """bool [N, H, W] by torchvision."""
    pasted = paste_masks_in_image(torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), size, padding=1)
    return (pasted > 0.5)[:, 0].numpy()


def coco_counts(mask: NDArray[np.bool_]) -> bytes:
    counts: bytes = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def blob(rng: np.random.Generator, side: int) -> Floats:
    """What a mask head gives: a soft-edged shape, sometimes with a hole."""
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    radius = rng.uniform(0.3, 1.2) + 0.2 * np.cos(rng.integers(1, 5) * np.arctan2(y, x) + rng.uniform(0, 6))
    distance = np.abs(np.hypot(x, y) - rng.choice([0, 0, 0.5]))
    return (1 / (1 + np.exp(-rng.uniform(2, 20) * (radius - distance)))).astype(np.float32)


def varied_mask(rng: np.random.Generator, kind: int, side: int) -> Floats:
    if kind == 0:
        return rng.random((side, side), dtype=np.float32)
    if kind == 1:  # saturated, so that whole cells lie exactly on one side
        return (rng.random((side, side)) < 0.5).astype(np.float32)
    if kind == 2:
        return np.full((side, side), rng.choice([0, 1, 0.4, 0.6]), np.float32)
    return blob(rng, side)


def varied_box(rng: np.random.Generator, size: Size) -> Floats:
    """From below a pixel to beyond the image, over every border; half of them clipped, as the service's are."""
    height, width = size
    center = rng.uniform(-0.1, 1.1, 2) * (width, height)
    sides = np.exp(rng.uniform(np.log(0.3), np.log(1.5 * max(size)), 2))
    box = np.concatenate((center - sides / 2, center + sides / 2)).clip(-2 * max(size), 2 * max(size))
    if rng.random() < 0.5:
        box = box.clip(0, (width, height, width, height))
    # torchvision fails on boxes that miss the image; those have a test of their own
    box[:2] = np.minimum(box[:2], (width - 1, height - 1))
    box[2:] = np.maximum(box[2:], (1, 1))
    return box.astype(np.float32)


def test_thousand_varied_masks_equal_torchvision() -> None:
    rng = np.random.default_rng(20)
    identical = total = 0
    for group in range(250):
        size = (int(rng.integers(1, 400)), int(rng.integers(1, 400)))
        side = int(rng.choice([28, 28, 28, 14, 5, 1]))
        masks = np.stack([varied_mask(rng, group % 5, side) for _ in range(4)])
        boxes = np.stack([varied_box(rng, size) for _ in range(4)])
        expected = reference(masks, boxes, size)
        for mask, box, theirs, ours in zip(masks, boxes, expected, encode_masks(masks, boxes, size), strict=True):
            assert ours.size == size
            total += 1
            if ours.counts == coco_counts(theirs):
                identical += 1
                continue
            differing = np.count_nonzero(decode(ours) != theirs)
            union = np.count_nonzero(decode(ours) | theirs)
            assert 1 - differing / union >= 0.999, (size, box, mask.shape, group)
    assert total == 1000
    assert identical / total >= 0.98


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="torch rounds otherwise without FMA"
)
@pytest.mark.parametrize(
    ("shortest", "longest"),
    [(20, 58), (70, 300), (58.5, 61.5)],
    ids=["torch's kernel for small outputs", "torch's other kernel", "where one takes over from the other"],
)
def test_masks_full_of_near_ties_are_identical(shortest: float, longest: float) -> None:
    """Every pixel within a few roundings of 0.5: only torch's own operations in torch's own order decide them alike."""
    rng = np.random.default_rng(21)
    masks = (0.5 + rng.integers(-2, 3, (30, 28, 28)) * 2.0**-24).astype(np.float32)
    masks[:5] = 0.5
    sides = rng.uniform(shortest, longest, (30, 2))
    boxes = np.concatenate((np.full((30, 2), 3.3), 3.3 + sides), axis=1).astype(np.float32)
    encoded = encode_masks(masks, boxes, (310, 310))
    expected = [coco_counts(mask) for mask in reference(masks, boxes, (310, 310))]
    assert [rle.counts for rle in encoded] == expected


def test_large_image_equals_torchvision() -> None:
    rng = np.random.default_rng(3)
    masks = np.stack([blob(rng, 28) for _ in range(6)])
    boxes = np.array(
        [
            [0, 0, 1920, 1080],
            [-300.5, -200, 2500, 1500],
            [3.3, 8.1, 1900.7, 60.2],
            [1000, 5, 1003, 1079.9],
            [1919, 1079, 1920, 1080],
            [400.5, 300.5, 900.5, 800.5],
        ],
        np.float32,
    )
    encoded = encode_masks(masks, boxes, (1080, 1920))
    expected = [coco_counts(mask) for mask in reference(masks, boxes, (1080, 1920))]
    assert [rle.counts for rle in encoded] == expected


FULL, EMPTY = np.ones((28, 28), np.float32), np.zeros((28, 28), np.float32)
HALF = np.repeat([[1.0], [0.0]], 14, axis=0).astype(np.float32).repeat(28, axis=1)
# (what it is, mask, box, size, uncompressed counts or None where torchvision's answer alone counts)
EDGES = [
    ("empty", EMPTY, (1, 1, 4, 4), (5, 6), [30]),
    ("full, over the whole image", FULL, (-50, -50, 60, 60), (5, 6), [0, 30]),
    ("full, exactly the image", FULL, (0, 0, 6, 5), (5, 6), None),
    ("a box of no size", FULL, (2, 2, 2, 2), (5, 6), None),
    ("a tenth of a pixel", FULL, (2.2, 2.2, 2.3, 2.3), (5, 6), None),
    ("one pixel in the last corner", FULL, (5, 4, 6, 5), (5, 6), None),
    ("a one-pixel image", FULL, (0, 0, 1, 1), (1, 1), None),
    ("one row", FULL, (2, 0, 7, 1), (1, 10), None),
    ("one column", FULL, (0, 2, 1, 7), (10, 1), None),
    ("over the left and upper border", FULL, (-10, -10, 3, 3), (8, 8), None),
    ("over the right and lower border", FULL, (4, 4, 30, 30), (8, 8), None),
    ("the full height, so that runs go on into the next column", FULL, (2, -20, 5, 30), (8, 9), None),
    ("upper half", HALF, (-1, -1, 9, 9), (8, 8), None),
    ("the largest output of torch's other kernel", HALF, (0, 0, 58.7, 58.7), (64, 64), None),
    ("NaN is background", np.full((28, 28), np.nan, np.float32), (0, 0, 7, 7), (8, 8), [64]),
    (
        "one side of the mask is NaN",
        np.where(HALF > 0, np.nan, FULL).astype(np.float32),
        (0, 0, 30, 30),
        (30, 30),
        None,
    ),
    ("one side is infinite", np.where(HALF > 0, np.inf, EMPTY).astype(np.float32), (0, 0, 30, 30), (30, 30), None),
    ("beyond the right border", FULL, (70, 1, 90, 5), (8, 8), [64]),
    ("above the image", FULL, (1, -90, 5, -70), (8, 8), [64]),
    ("corners in the wrong order", FULL, (6, 6, 2, 2), (8, 8), [64]),
    ("astronomically far", FULL, (1e30, 1e30, 2e30, 2e30), (8, 8), [64]),
    ("astronomically large", FULL, (-3e38, -3e38, 3e38, 3e38), (8, 8), [0, 64]),
]


@pytest.mark.parametrize(
    ("mask", "box", "size", "counts"), [case[1:] for case in EDGES], ids=[case[0] for case in EDGES]
)
def test_edge_case(mask: Floats, box: tuple[float, ...], size: Size, counts: list[int] | None) -> None:
    boxes = np.array([box], np.float32)
    encoded = encode_masks(mask[None], boxes, size)[0]
    if counts is not None:
        assert to_uncompressed(encoded) == counts
    else:
        assert encoded.counts == coco_counts(reference(mask[None], boxes, size)[0])


def test_no_detections() -> None:
    assert encode_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (5, 6)) == []


def test_many_masks_outside_the_image() -> None:
    boxes = np.tile(np.array([[50, 50, 60, 60]], np.float32), (3000, 1))
    encoded = encode_masks(np.ones((3000, 3, 3), np.float32), boxes, (4, 4))
    assert {rle.counts for rle in encoded} == {coco_counts(np.zeros((4, 4), bool))}


def test_read_only_and_strided_arrays() -> None:
    """Engines hand out views and read-only buffers; neither may change the answer."""
    rng = np.random.default_rng(5)
    masks = np.stack([blob(rng, 28) for _ in range(6)])
    boxes = np.stack([varied_box(rng, (60, 70)) for _ in range(6)])
    expected = encode_masks(masks[::2].copy(), boxes[::2].copy(), (60, 70))
    masks.flags.writeable = boxes.flags.writeable = False
    assert encode_masks(masks[::2], boxes[::2], (60, 70)) == expected


def test_threads_agree() -> None:
    rng = np.random.default_rng(6)
    masks = np.stack([blob(rng, 28) for _ in range(40)])
    boxes = np.stack([varied_box(rng, (300, 200)) for _ in range(40)])
    expected = encode_masks(masks, boxes, (300, 200))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: encode_masks(masks, boxes, (300, 200)), range(40)):
            assert found == expected


def test_memory_does_not_grow_with_the_image() -> None:
    """Forty masks over 2.4 gigapixels: 96 GB as pictures."""
    rng = np.random.default_rng(7)
    masks = np.stack([blob(rng, 28) for _ in range(40)])
    boxes = np.tile(np.array([[100, 100, 3000, 39900]], np.float32), (40, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encoded = encode_masks(masks, boxes, (40_000, 60_000))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000  # KiB
    assert all(0 <= area(rle) < 2904 * 39_900 for rle in encoded)
    assert max(area(rle) for rle in encoded) > 10**7


# (what is wrong, masks' shape, boxes, size, message)
WRONG = [
    ("masks with a channel", (1, 1, 28, 28), [[0, 0, 1, 1]], (5, 5), "masks of shape"),
    ("masks not square", (1, 28, 14), [[0, 0, 1, 1]], (5, 5), "masks of shape"),
    ("a box too few", (2, 28, 28), [[0, 0, 1, 1]], (5, 5), "boxes of shape"),
    ("NaN in a box", (2, 28, 28), [[0, 0, 1, 1], [0, 0, np.nan, 1]], (5, 5), "box 1 is"),
    ("infinity in a box", (1, 28, 28), [[0, 0, np.inf, 1]], (5, 5), "box 0 is"),
    ("an image without rows", (1, 28, 28), [[0, 0, 1, 1]], (0, 5), "mask size 0x5"),
    ("more pixels than COCO counts", (1, 28, 28), [[0, 0, 1, 1]], (2**16, 2**16), "mask size 65536x65536"),
]


@pytest.mark.parametrize(
    ("shape", "boxes", "size", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_wrong_input_is_refused(shape: tuple[int, ...], boxes: list[list[float]], size: Size, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_masks(np.ones(shape, np.float32), np.array(boxes, np.float32), size)
