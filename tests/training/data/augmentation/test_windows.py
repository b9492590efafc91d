"""Which part of an image is drawn, and how often."""

from collections import Counter

import numpy as np
import pytest
import torch

from model.architecture import ArchitectureConfig
from training.config import AugmentConfig
from training.data.augmentation.windows import View, draw_view

CROP = 64
NO_BOXES = np.zeros((0, 4), np.float32)
ARCHITECTURE = ArchitectureConfig(min_size=40, max_size=90)


def draw(config: AugmentConfig, size: tuple[int, int], seed: int, boxes: np.ndarray = NO_BOXES) -> View:
    torch.manual_seed(seed)
    return draw_view(config, ARCHITECTURE, size, boxes)


def random_size(seed: int) -> tuple[int, int]:
    height, width = np.random.default_rng(seed).integers(1, 400, 2).tolist()
    return height, width


CONFIGS = {
    "plain": AugmentConfig(crop=CROP),
    "scaled": AugmentConfig(crop=CROP, scale=(0.2, 5.0)),
    "jittered": AugmentConfig(crop=CROP, jitter=(0.1, 2.0)),
    "around": AugmentConfig(crop=CROP, jitter=(0.1, 4.0), crop_around=1),
    "huge": AugmentConfig(crop=CROP, scale=(100.0, 200.0)),
    "tiny": AugmentConfig(crop=CROP, scale=(0.001, 0.002)),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_a_window_lies_in_the_image_fits_the_square_and_keeps_its_shape(config: AugmentConfig) -> None:
    for seed in range(300):
        size = random_size(seed)
        boxes = np.array([[0, 0, size[1], 1], [size[1] - 0.1, size[0] - 0.1, size[1] + 9, size[0]]], np.float32)
        (top, left, height, width), resized = draw(config, size, seed, boxes)
        assert 0 <= top < top + height <= size[0]
        assert 0 <= left < left + width <= size[1]
        assert 1 <= min(resized) <= max(resized) <= CROP
        if min(resized) > 1:  # one scale for both directions, up to the rounding of the result to pixels
            assert (resized[0] - 0.5) / height <= (resized[1] + 0.5) / width
            assert (resized[1] - 0.5) / width <= (resized[0] + 0.5) / height
        # Never less than the square while the image has more to show.
        for side, length, result in zip((height, width), size, resized, strict=True):
            assert side == length or result == CROP


def test_jitter_is_relative_to_the_size_that_fits_the_square_and_evenly_drawn() -> None:
    config = AugmentConfig(crop=512, jitter=(0.5, 1.0))
    factors = []
    for seed in range(400):
        window, resized = draw(config, (300, 700), seed)
        assert window == (0, 0, 300, 700)  # the whole image, for it is not larger than the square
        factors.append(resized[1] / 512)
    assert 0.499 <= min(factors) < 0.52
    assert 0.98 < max(factors) <= 1
    quarters = np.histogram(factors, bins=4, range=(0.499, 1.001))[0]
    assert (abs(quarters - 100) < 35).all()


def test_jitter_above_one_shows_a_part_of_the_square_that_large() -> None:
    for seed in range(50):
        window, resized = draw(AugmentConfig(crop=CROP, jitter=(2.0, 2.0)), (300, 300), seed)
        assert window[2:] == (150, 150)
        assert resized == (CROP, CROP)


def test_a_narrow_image_is_cut_in_its_length_alone() -> None:
    window, resized = draw(AugmentConfig(crop=CROP, jitter=(1.6, 1.6)), (100, 400), 0)
    assert (window[0], window[2], window[3]) == (0, 100, 250)
    assert resized == (26, CROP)


def test_windows_begin_anywhere_equally_often() -> None:
    config = AugmentConfig(crop=32)
    starts = Counter(draw(config, (36, 32), seed).window[0] for seed in range(1000))
    assert sorted(starts) == [0, 1, 2, 3, 4]
    assert min(starts.values()) > 150


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_share_of_the_windows_holds_the_middle_of_an_object(share: float) -> None:
    config = AugmentConfig(crop=32, crop_around=share)
    boxes = np.array([[3, 5, 7, 8], [991, 640, 993, 642]], np.float32)  # middles (5, 6.5) and (992, 641)
    held: Counter[int] = Counter()
    for seed in range(400):
        (top, left, height, width), _ = draw(config, (700, 1000), seed, boxes)
        held.update(
            number
            for number, (x, y) in enumerate(((5, 6.5), (992, 641)))
            if left <= x < left + width and top <= y < top + height
        )
    # By chance alone a window of 32 x 32 pixels in 1000 x 700 holds one of them nearly never.
    assert abs(held[0] - 200 * share) <= 40
    assert abs(held[1] - 200 * share) <= 40


def test_windows_around_an_object_have_it_anywhere_inside() -> None:
    config = AugmentConfig(crop=32, crop_around=1)
    box = np.array([[200, 300, 201, 301]], np.float32)
    starts = [draw(config, (600, 600), seed, box).window[:2] for seed in range(600)]
    assert {300 - top for top, _ in starts} == set(range(32))
    assert {200 - left for _, left in starts} == set(range(32))


@pytest.mark.parametrize("box", [(-50, -50, -10, -10), (95, 70, 300, 200)], ids=["before", "behind"])
def test_an_object_whose_middle_lies_outside_is_approached_from_inside(box: tuple[int, ...]) -> None:
    for seed in range(50):
        (top, left, _, _), _ = draw(AugmentConfig(crop=32, crop_around=1), (80, 100), seed, np.array([box], np.float32))
        assert (top, left) == ((0, 0) if box[0] < 0 else (48, 68))


def test_shorter_sides_are_drawn_equally_often_and_the_longest_side_has_its_limit() -> None:
    config = AugmentConfig(min_sizes=(20, 30, 40))
    for size, expected in (((50, 100), {20: 40, 30: 60, 40: 80}), ((300, 100), {20: 60, 30: 90})):
        drawn = Counter(draw(config, size, seed) for seed in range(600))
        assert {view.window for view in drawn} == {(0, 0, *size)}
        assert {min(view.size): max(view.size) for view in drawn} == expected
        if len(expected) == 3:
            assert min(drawn.values()) > 160
    assert {draw(AugmentConfig(), (50, 100), seed).size for seed in range(5)} == {(40, 80)}
