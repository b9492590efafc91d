"""Windows, resizing and mirror images against loops over pixels: boxes, masks and keypoints go with the image."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faster_coco_eval import mask as mask_api
from PIL import Image

from tests.training.data.augmentation.scenes import (
    annotate,
    assert_tight,
    assert_well_formed,
    extent,
    random_image,
    random_keypoints,
    random_sample,
    random_scene,
    whole,
)
from training.data.augmentation.geometry import (
    Sample,
    cut_window,
    drop_degenerate,
    horizontal_flip,
    tighten,
    transpose,
    vertical_flip,
)

PAIRS = ((0, 2),)
Move = Callable[[Sample], Sample]
Source = Callable[[int, int, int, int], tuple[int, int]]
"""(y, x) in the moved image, and its height and width, to (y, x) in the image before."""

MOVES: dict[str, tuple[Move, Source]] = {
    "horizontal": (lambda s: horizontal_flip(s, PAIRS), lambda y, x, h, w: (y, w - 1 - x)),
    "vertical": (lambda s: vertical_flip(s, PAIRS), lambda y, x, h, w: (h - 1 - y, x)),
    "diagonal": (lambda s: transpose(s, PAIRS), lambda y, x, h, w: (x, y)),
}


def visible(sample: Sample) -> list[list[list[float]]]:
    assert sample.keypoints is not None
    points: list[list[list[float]]] = sample.keypoints.tolist()
    return points


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("seed", range(20))
def test_a_mirror_image_moves_every_pixel_to_its_place(name: str, seed: int) -> None:
    height, width = np.random.default_rng(seed).integers(1, 15, 2).tolist()
    before = random_sample(seed, height, width)
    move, source = MOVES[name]
    after = move(before)
    assert before.masks is not None
    assert after.masks is not None
    rows, columns = after.image.shape[1:]
    assert (rows, columns) == ((width, height) if name == "diagonal" else (height, width))
    for row, column in product(range(rows), range(columns)):
        from_row, from_column = source(row, column, rows, columns)
        assert after.image[:, row, column].tolist() == [from_column, from_row, 1]
        assert torch.equal(after.masks[:, row, column], before.masks[:, from_row, from_column])
    assert_well_formed(after)
    assert_tight(after)
    assert torch.equal(after.labels, before.labels)
    # What lies on a pixel shows that pixel: left and right have changed names, unlabeled ones stay at the origin.
    for points, own in zip(visible(after), visible(before), strict=True):
        for (x, y, visibility), (own_x, own_y, own_visibility) in zip(points, own[::-1], strict=True):
            assert visibility == own_visibility
            if visibility:
                assert after.image[:2, int(y), int(x)].tolist() == [own_x - 0.5, own_y - 0.5]
                assert (x % 1, y % 1) == (0.5, 0.5)
            else:
                assert (x, y) == (0, 0)


def test_two_mirror_images_are_a_rotation_and_change_no_names() -> None:
    sample = random_sample(0, 9, 13)
    turned = horizontal_flip(transpose(sample, PAIRS), PAIRS)
    assert np.array_equal(turned.image.permute(1, 2, 0).numpy(), np.rot90(sample.image.permute(1, 2, 0).numpy(), -1))
    for points, own in zip(visible(turned), visible(sample), strict=True):
        for (x, y, visibility), (own_x, own_y, _) in zip(points, own, strict=True):
            assert (x, y) == ((9 - own_y, own_x) if visibility else (0, 0))


@pytest.mark.parametrize("move", [move for move, _ in MOVES.values()], ids=list(MOVES))
def test_a_mirror_image_of_a_mirror_image_is_the_image(move: Move) -> None:
    sample = random_sample(3, 8, 11)
    assert sample.target().keys() == move(sample).target().keys()
    for key, value in move(move(sample)).target().items():
        assert torch.equal(value, sample.target()[key])


@pytest.mark.parametrize("seed", range(60))
def test_a_window_is_a_part_of_everything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 16, 21
    image, annotations, masks = random_scene(seed, height, width, count=6)
    top, left = int(rng.integers(height)), int(rng.integers(width))
    rows, columns = int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1))
    cut = cut_window(image, annotations, (top, left, rows, columns), with_masks=True)
    assert_well_formed(cut)
    for y, x in product(range(rows), range(columns)):
        assert cut.image[:, y, x].tolist() == [left + x, top + y, 1]

    sample = tighten(cut)
    expected = {
        int(label): mask[top : top + rows, left : left + columns]
        for label, mask in zip(annotations.labels, masks, strict=True)
        if any(mask[top + y, left + x] for y in range(rows) for x in range(columns))
    }
    assert sample.labels.tolist() == list(expected)
    assert sample.masks is not None
    for label, mask in zip(sample.labels.tolist(), sample.masks.numpy(), strict=True):
        assert np.array_equal(mask, expected[label])
    assert_tight(sample)
    assert annotations.keypoints is not None
    for label, points in zip(sample.labels.tolist(), visible(sample), strict=True):
        for point, (x, y, visibility) in zip(points, annotations.keypoints[label - 10].tolist(), strict=True):
            inside = visibility and left <= x <= left + columns and top <= y <= top + rows
            assert point == ([x - left, y - top, visibility] if inside else [0, 0, 0])


@pytest.mark.parametrize("seed", range(20))
def test_boxes_without_masks_are_cut_at_the_window(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, annotations, _ = random_scene(seed, 16, 21, count=6)
    top, left = int(rng.integers(12)), int(rng.integers(12))
    sample = drop_degenerate(cut_window(image, annotations, (top, left, 4, 9), with_masks=False))
    expected = []
    for label, (x1, y1, x2, y2) in zip(annotations.labels, annotations.boxes.tolist(), strict=True):
        pixels = [(x, y) for x in range(left, left + 9) for y in range(top, top + 4) if x1 <= x < x2 and y1 <= y < y2]
        if pixels:
            xs, ys = [x - left for x, _ in pixels], [y - top for _, y in pixels]
            expected.append((int(label), [min(xs), min(ys), max(xs) + 1, max(ys) + 1]))
    assert list(zip(sample.labels.tolist(), sample.boxes.tolist(), strict=True)) == expected
    assert sample.masks is None


@pytest.mark.parametrize("seed", range(60))
def test_resizing_takes_the_nearest_mask_pixel_and_scales_the_rest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width, rows, columns = rng.integers(1, 24, 4).tolist()
    image, annotations, _ = random_scene(seed, height, width)
    before = whole(image, annotations)
    after = whole(image, annotations, (rows, columns))
    assert before.masks is not None
    assert after.masks is not None
    assert after.masks.dtype == torch.uint8
    for y, x in product(range(rows), range(columns)):
        from_y, from_x = (2 * y + 1) * height // (2 * rows), (2 * x + 1) * width // (2 * columns)
        assert torch.equal(after.masks[:, y, x], before.masks[:, from_y, from_x])
    scale = torch.tensor([columns / width, rows / height])
    torch.testing.assert_close(after.boxes, before.boxes * scale.repeat(2))
    assert before.keypoints is not None
    assert after.keypoints is not None
    torch.testing.assert_close(after.keypoints[..., :2], before.keypoints[..., :2] * scale)
    assert torch.equal(after.keypoints[..., 2], before.keypoints[..., 2])


@pytest.mark.parametrize("seed", range(20))
def test_enlarging_keeps_keypoints_on_the_object_they_mark(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(3, 15, 2).tolist()
    image, annotations, _ = random_scene(seed, height, width)
    after = whole(image, annotations, (height + int(rng.integers(1, 30)), width + int(rng.integers(1, 30))))
    assert after.masks is not None
    for points, mask in zip(visible(after), after.masks, strict=True):
        for x, y, visibility in points:
            assert not visibility or mask[int(y), int(x)]
    # Boxes and masks say the same, to the half pixel that rounding costs.
    for box, mask in zip(after.boxes.tolist(), after.masks.numpy(), strict=True):
        assert max(abs(a - b) for a, b in zip(box, extent(mask), strict=True)) <= 0.5 + 1e-5


def test_outlines_become_pixels_as_if_the_whole_mask_had_been_resized() -> None:
    rng = np.random.default_rng(0)
    height, width = 240, 320
    polygons = []
    for _ in range(30):  # stars of several parts, some of which reach over the border
        center, angles = rng.uniform(0, (width, height)), np.sort(rng.uniform(0, 2 * np.pi, 12))
        radii = rng.uniform(3, 70, 12)
        polygons.append((center + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None],) * 2)
    outlines = replace(annotate(np.ones((30, height, width), np.uint8), np.arange(30)), segmentations=tuple(polygons))
    drawn = [
        mask_api.decode(mask_api.merge(mask_api.frPyObjects([part.ravel().tolist() for part in parts], height, width)))
        for parts in polygons
    ]
    image = np.zeros((height, width, 3), np.uint8)
    for window, size in (
        ((0, 0, 240, 320), (240, 320)),
        ((0, 0, 240, 320), (75, 100)),
        ((31, 17, 97, 203), (150, 333)),
    ):
        top, left, rows, columns = window
        masks = cut_window(image, outlines, window, size, with_masks=True).masks
        assert masks is not None
        expected = torch.from_numpy(np.stack(drawn))[:, top : top + rows, left : left + columns]
        expected = F.interpolate(expected[None].float(), size, mode="nearest-exact")[0].byte()
        assert torch.equal(masks, expected)


def test_an_image_is_resized_as_in_serving() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8)
    annotations = annotate(np.zeros((0, 40, 52), np.uint8), np.zeros(0))
    for size in ((17, 33), (80, 91)):
        served = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        resized = whole(image, annotations, size).image.permute(1, 2, 0).numpy()
        assert np.abs(resized.astype(int) - served).max() <= 1


def test_slivers_go_and_whole_pixels_stay() -> None:
    sample = random_sample(0, 10, 10, count=3)
    sample.boxes[:] = torch.tensor([[0, 0, 0.9, 5], [2, 2, 3, 3], [4, 4, 9, 4]])
    kept = drop_degenerate(sample)
    assert kept.labels.tolist() == [11]
    assert_well_formed(kept)


@pytest.mark.parametrize("count", [0, 1])
def test_no_objects_and_objects_of_one_pixel_go_through_everything(count: int) -> None:
    masks = np.zeros((count, 1, 1), np.uint8) + 1
    keypoints = random_keypoints(np.random.default_rng(0), masks)
    annotations = annotate(masks, np.arange(count), keypoints)
    sample = whole(random_image(1, 1), annotations)
    for move in [move for move, _ in MOVES.values()]:
        sample = move(sample)
        assert_well_formed(drop_degenerate(tighten(sample)))
    for size in ((1, 1), (5, 3)):
        result = drop_degenerate(tighten(whole(random_image(1, 1), annotations, size)))
        assert_well_formed(result)
        assert result.boxes.tolist() == [[0, 0, size[1], size[0]]] * count
