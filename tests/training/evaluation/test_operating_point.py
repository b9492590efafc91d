"""Matching, thresholds, confusions and curves, against counting by hand and pycocotools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model.runtime.detections import Detections
from training.data.annotations.dataset import Dataset
from training.data.formats.coco.reader import load_coco
from training.evaluation.evaluation import to_coco_results
from training.evaluation.matching import Matches, match_detections
from training.evaluation.operating_point import best_thresholds, image_counts, operating_point
from training.evaluation.worst import worst_images

NAMES = ("cat", "dog")
Box = tuple[float, float, float, float]


def _matches(scores: Sequence[float], right: Sequence[bool], objects: int, label: int = 1) -> Matches:
    """One image with detections of one class, in falling score."""
    found = np.where(right, np.cumsum(right) - 1, -1)
    count = len(scores)
    return Matches(
        scores=np.array(scores, np.float32),
        labels=np.full(count, label),
        found=found.astype(np.int64),
        ignored=np.zeros(count, np.bool_),
        truth=np.full(objects, label),
        crowd=np.zeros(objects, np.bool_),
        iou=np.zeros((count, objects)),
        areas=np.ones(count),
        truth_areas=np.ones(objects),
    )


def _data(folder: Path, objects: Sequence[Sequence[tuple[str, Box, int]]]) -> Dataset:
    """One image for each list of (class, x y width height, crowd), 100 pixels a side."""
    flat = [(image, *one) for image, several in enumerate(objects, 1) for one in several]
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 100} for i in range(1, len(objects) + 1)],
        "categories": [{"id": 5 + i, "name": name} for i, name in enumerate(NAMES)],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": 5 + NAMES.index(name),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": crowd,
            }
            for number, (image, name, box, crowd) in enumerate(flat, 1)
        ],
    }
    path = folder / "instances_val.json"
    path.write_text(json.dumps(document))
    return load_coco(path, folder)


def _detections(*found: tuple[str, float, Box]) -> Detections:
    boxes = np.array([(x, y, x + w, y + h) for _, _, (x, y, w, h) in found], np.float32).reshape(-1, 4)
    labels = np.array([NAMES.index(name) + 1 for name, _, _ in found], np.int64)
    return Detections(boxes, np.array([score for _, score, _ in found], np.float32), labels)


def _random_case(folder: Path, seed: int) -> tuple[Dataset, list[Detections]]:
    rng = np.random.default_rng(seed)
    objects, results = [], []
    for _ in range(12):
        boxes = [(*rng.uniform(0, 60, 2), *rng.uniform(8, 40, 2)) for _ in range(rng.integers(0, 9))]
        there = [(str(rng.choice(NAMES)), box, int(rng.random() < 0.2)) for box in boxes]
        objects.append(there)
        found = []
        for name, box, _ in [*there, *there[:3]]:
            shaken = np.array(box) + rng.normal(0, 3, 4)
            label = name if rng.random() < 0.8 else str(rng.choice(NAMES))
            found.append((label, float(rng.random()), tuple(shaken.clip(1, 99).tolist())))
        results.append(_detections(*sorted(found, key=lambda one: -one[1])))
    return _data(folder, objects), results


def _reference(data: Dataset, results: Sequence[Detections]) -> COCOeval:
    truth = COCO(str(data.root / "instances_val.json"))
    run = COCOeval(truth, truth.loadRes(to_coco_results(data, results, "box")), "bbox")
    run.evaluate()
    run.accumulate()
    return run


@pytest.mark.parametrize("seed", range(6))
def test_matches_are_those_of_pycocotools(tmp_path: Path, seed: int) -> None:
    data, results = _random_case(tmp_path, seed)
    matches = match_detections(data, results, "box")
    ignored = 0
    for entry in _reference(data, results).evalImgs:
        if entry is None or entry["aRng"] != [0, 1e10]:
            continue
        image, label = matches[entry["image_id"] - 1], entry["category_id"] - 4
        of = image.labels == label
        ids = data.annotations[entry["image_id"] - 1].ids
        left_out = entry["dtIgnore"][0].astype(bool)
        expected = np.where(left_out, 0, entry["dtMatches"][0]).astype(int)
        ours = np.array([ids[found] if found >= 0 else 0 for found in image.found[of]], int)
        assert ours.tolist() == expected.tolist()
        assert image.ignored[of].tolist() == left_out.tolist()
        ignored += int(left_out.sum())
    assert ignored  # crowd regions are part of the case


@pytest.mark.parametrize("seed", range(3))
def test_curves_are_those_of_pycocotools(tmp_path: Path, seed: int) -> None:
    data, results = _random_case(tmp_path, seed)
    point = operating_point(match_detections(data, results, "box"), NAMES, 0.0, 0.5)
    reference = _reference(data, results).eval
    for index, one in enumerate(point.classes):
        assert one.curve.precision == pytest.approx(reference["precision"][0, :, index, 0, -1], abs=1e-9)
        # At recall 0 pycocotools may name the score of a detection that it ignores.
        assert one.curve.score[1:] == pytest.approx(reference["scores"][0, 1:, index, 0, -1], abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_has_a_higher_f1_than_the_best(tmp_path: Path, seed: int) -> None:
    data, results = _random_case(tmp_path, seed)
    matches = match_detections(data, results, "box")
    best = operating_point(matches, NAMES, 0.0, 0.5)
    for index, one in enumerate(best.classes):
        assert one.threshold == one.best_threshold
        assert pytest.approx(one.best_F1) == one.F1
        scores = np.unique(np.concatenate([image.scores for image in matches]))
        tried = [operating_point(matches, NAMES, 0.0, 0.5, float(score)).classes[index].F1 for score in [0, *scores]]
        assert max(tried) == pytest.approx(one.best_F1)


def test_the_threshold_lies_between_the_scores_that_it_parts() -> None:
    #                   F1 with 2 objects: 2/3,  4/4,  4/5
    matches = [_matches([0.9, 0.8, 0.3], [True, True, False], 2)]
    assert best_thresholds(matches, ["cat"], 0.05) == {"cat": 0.55}


def test_of_equal_f1_the_higher_threshold_is_taken() -> None:
    # With 3 objects: 1 right of 1 gives 2/4, 1 of 2 gives 2/5, 2 of 5 gives 4/8.
    matches = [_matches([0.9, 0.7, 0.6, 0.5, 0.4], [True, False, False, False, True], 3)]
    assert best_thresholds(matches, ["cat"], 0.05) == {"cat": 0.8}


def test_equal_scores_are_never_parted() -> None:
    # Alone the first of the three would be perfect, but no threshold keeps only that.
    matches = [_matches([0.5, 0.5, 0.5], [True, False, False], 1)]
    assert operating_point(matches, ["cat"], 0.05, 0.5).classes[0].best_F1 == pytest.approx(2 / 4)
    assert best_thresholds(matches, ["cat"], 0.05) == {"cat": 0.28}


def test_neighboring_floats_are_parted() -> None:
    high = float(np.nextafter(np.float32(0.7), np.float32(1)))
    low = float(np.float32(0.7))
    threshold = best_thresholds([_matches([high, low], [True, False], 1)], ["cat"], 0.05)["cat"]
    assert np.float32(low) <= np.float32(threshold) < np.float32(high)


@pytest.mark.parametrize(
    ("image", "f1"),
    [
        pytest.param(_matches([], [], 2), 0.0, id="no detections"),
        pytest.param(_matches([0.9, 0.8], [False, False], 2), 0.0, id="none right"),
        pytest.param(_matches([0.9], [False], 0), -1.0, id="no objects"),
    ],
)
def test_a_class_that_is_never_found_has_no_threshold_of_its_own(image: Matches, f1: float) -> None:
    assert best_thresholds([image], ["cat"], 0.05) == {}
    (one,) = operating_point([image], ["cat"], 0.05, 0.4).classes
    assert (one.best_threshold, one.best_F1, one.threshold) == (None, f1, 0.4)


def test_counts_and_confusions(tmp_path: Path) -> None:
    a: Box = (0, 0, 20, 20)
    b: Box = (40, 0, 20, 20)
    c: Box = (0, 40, 20, 20)
    far: Box = (70, 70, 20, 20)
    data = _data(tmp_path, [[("cat", a, 0), ("cat", b, 0), ("dog", c, 0), ("dog", (60, 60, 40, 40), 1)], []])
    results = [
        _detections(
            ("cat", 0.9, a),  # found
            ("cat", 0.8, a),  # false: found before
            ("dog", 0.7, b),  # a cat taken for a dog
            ("dog", 0.6, far),  # in the crowd of dogs: neither right nor wrong
            ("cat", 0.5, far),  # false
            ("dog", 0.2, c),  # found, but not above the threshold
        ),
        _detections(("dog", 0.9, a)),  # false
    ]
    matches = match_detections(data, results, "box")
    point = operating_point(matches, NAMES, 0.05, 0.5, threshold=0.3)
    assert point.confusion == ((1, 1, 0), (0, 0, 1), (2, 1, 0))
    cat, dog = point.classes
    assert (cat.matched, cat.missed, cat.false, cat.precision, cat.recall) == (1, 1, 2, 1 / 3, 1 / 2)
    assert (dog.matched, dog.missed, dog.false, dog.precision, dog.recall, dog.F1) == (0, 1, 2, 0, 0, 0)
    assert image_counts(matches[0], [0.3, 0.3]) == (1, 2, 3)
    assert [(one.position, one.counts.f1()) for one in worst_images(matches, [0.3, 0.3], 5)] == [
        (1, 0.0),
        (0, pytest.approx(2 / 7)),
    ]

    lower = operating_point(matches, NAMES, 0.05, 0.5, threshold=0.1)
    assert lower.confusion == ((1, 1, 0), (0, 1, 0), (2, 1, 0))


def test_a_score_at_the_threshold_is_not_above_it() -> None:
    image = _matches([0.5], [True], 1)
    assert image_counts(image, [0.5]) == (0, 1, 0)
    assert image_counts(image, [0.4999]) == (1, 0, 0)


def test_results_that_do_not_fit(tmp_path: Path) -> None:
    data = _data(tmp_path, [[("cat", (0, 0, 9, 9), 0)]])
    with pytest.raises(ValueError, match="0 results for 1 images"):
        match_detections(data, [], "box")
    with pytest.raises(ValueError, match=r"1\.png have no masks"):
        match_detections(data, [_detections(("cat", 0.5, (0, 0, 9, 9)))], "mask")


def test_values_survive_json(tmp_path: Path) -> None:
    data, results = _random_case(tmp_path, 0)
    point = operating_point(match_detections(data, results, "box"), NAMES, 0.0, 0.5)
    text: dict[str, Any] = json.loads(point.model_dump_json())
    assert type(point).model_validate(text) == point
