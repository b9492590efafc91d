from __future__ import annotations

from pathlib import Path

import pytest

from model.architecture import ArchitectureConfig
from tests.training.data.coco_folder import Box, write_split
from training.data.checking.advice import advise
from training.data.checking.statistics import Spread, class_gaps, gather_objects, split_statistics


def test_objects_are_counted_by_class_and_size(tmp_path: Path) -> None:
    boxes = [
        [Box((0, 0, 10, 20)), Box((40, 40, 40, 40)), Box((100, 0, 100, 100), label=2)],
        [Box((5, 5, 20, 20)), Box((0, 0, 200, 200), crowd=True)],
        [],
    ]
    data = write_split(tmp_path, "train", [(200, 200), (200, 250), (300, 200)], boxes)
    figures = split_statistics("train", data, gather_objects(data))
    assert (figures.images, figures.without_objects) == (3, 1)
    assert figures.height == Spread(smallest=200, p5=200, median=200, p95=245, largest=250)
    cat, dog = figures.classes
    assert (cat.name, cat.images, cat.objects, cat.crowds) == ("cat", 2, 3, 1)
    assert (cat.small, cat.medium, cat.large) == pytest.approx((2 / 3, 1 / 3, 0), abs=1e-5)
    assert cat.side is not None
    assert (cat.side.smallest, cat.side.median, cat.side.largest) == (pytest.approx(200**0.5, abs=1e-3), 20, 40)
    assert cat.aspect is not None
    assert cat.aspect.largest == 2  # height by width
    assert cat.per_image is not None
    assert (cat.per_image.median, cat.per_image.largest) == (1.5, 2)
    assert (dog.objects, dog.large) == (1, 1)
    assert (figures.total.objects, figures.total.crowds) == (4, 1)
    assert figures.crowding.per_megapixel is not None
    assert figures.crowding.per_megapixel.largest == pytest.approx(3 / 0.04)


def test_crowding_is_that_of_objects_not_of_crowd_regions(tmp_path: Path) -> None:
    # The first two share 60 of 140 columns and the second is of another class; the third is alone.
    boxes = [[Box((0, 0, 40, 10)), Box((10, 0, 40, 10), label=2), Box((0, 50, 10, 10)), Box((0, 50, 10, 10), 1, True)]]
    data = write_split(tmp_path, "train", [(100, 100)], boxes)
    objects = gather_objects(data)
    assert objects.best_iou.tolist() == pytest.approx([0.6, 0.6, 0])
    assert objects.best_same.tolist() == pytest.approx([0, 0, 0])
    crowding = split_statistics("train", data, objects).crowding
    assert (crowding.crowded, crowding.mean_best_iou) == pytest.approx((2 / 3, 0.4), abs=1e-5)


def test_a_split_without_objects_has_figures_too(tmp_path: Path) -> None:
    data = write_split(tmp_path, "train", [(50, 50)], [[]])
    objects = gather_objects(data)
    figures = split_statistics("train", data, objects)
    assert figures.total.side is None
    assert figures.crowding.per_megapixel is None
    assert advise({"train": data}, {"train": objects}, ArchitectureConfig()) == ["no split has objects"]


def test_classes_of_one_split_alone_are_named(tmp_path: Path) -> None:
    figures = {}
    for split, label in (("train", 1), ("val", 2)):
        names = ("cat", "dog", "yak")
        data = write_split(tmp_path, split, [(50, 50)], [[Box((0, 0, 9, 9)), Box((20, 0, 9, 9), label)]], names)
        figures[split] = split_statistics(split, data, gather_objects(data))
    gaps = [(gap.name, gap.present, gap.absent) for gap in class_gaps(figures)]
    assert gaps == [("dog", ("val",), ("train",)), ("yak", (), ("train", "val"))]


def _advice(folder: Path, boxes: list[Box], **architecture: object) -> str:
    data = write_split(folder, "train", [(100, 100)], [boxes])
    config = ArchitectureConfig(min_size=100, max_size=200).model_copy(update=architecture)
    return "\n".join(advise({"train": data}, {"train": gather_objects(data)}, config))


def test_too_few_detections_are_noticed(tmp_path: Path) -> None:
    boxes = [Box((20 * column, 20 * row, 9, 9)) for row in range(5) for column in range(5)]
    few = _advice(tmp_path, boxes, detections_per_image=24)
    assert "the most objects in an image is 25: architecture.detections_per_image should be at least that" in few
    assert "detections_per_image of 25 has room" in _advice(tmp_path, boxes, detections_per_image=25)


def test_anchors_are_compared_at_the_networks_input(tmp_path: Path) -> None:
    boxes = [Box((0, 0, 20, 20)), Box((50, 50, 20, 20))]
    small = ((20,), (40,), (60,), (80,), (100,))
    assert "0.0% of objects overlap no anchor" in _advice(tmp_path, boxes, anchor_sizes=small)
    twice = _advice(tmp_path, boxes, anchor_sizes=small, min_size=300, max_size=300, allow_downscale=True)
    assert "sides of 60 to 60 px" in twice
    large = tuple((128 + 8 * level,) for level in range(5))
    assert "100.0% of objects overlap no anchor" in _advice(tmp_path, boxes, anchor_sizes=large)
    assert "it would be 0.0%" in _advice(tmp_path, boxes, anchor_sizes=large)


def test_objects_that_suppression_would_lose_are_counted(tmp_path: Path) -> None:
    close = [Box((0, 0, 40, 10)), Box((10, 0, 40, 10))]  # IoU 0.6
    text = _advice(tmp_path, close)
    assert "100.0% of objects overlap another of their class with box IoU above 0.5" in text
    assert "box_nms_threshold 0.6 would leave 0.0%" in text
    apart = [Box((0, 0, 40, 10)), Box((10, 0, 40, 10), label=2)]
    assert "box_nms_threshold suits them" in _advice(tmp_path, apart)
    twice = [Box((0, 0, 40, 10)), Box((0, 0, 40, 10))]  # one object annotated twice is no crowd
    assert "box_nms_threshold suits them" in _advice(tmp_path, twice)


def test_objects_that_are_too_small_to_see_are_noticed(tmp_path: Path) -> None:
    boxes = [Box((0, 0, 6, 6)), Box((50, 50, 20, 20))]
    assert "50.0% of objects are smaller than 8 px a side" in _advice(tmp_path, boxes)
    assert "smaller than 8 px" not in _advice(tmp_path, boxes, min_size=200, max_size=200)
