"""Pairs, panoptic quality and the aggregated Jaccard index: by hand on squares, and against every pairing there is."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from training.evaluation.instances import IOUS, instances
from training.evaluation.matching import Matches


def _image(
    iou: Any,
    areas: Any,
    truth_areas: Any,
    *,
    labels: Any = None,
    truth: Any = None,
    scores: Any = None,
    ignored: Any = None,
    crowd: Any = None,
) -> Matches:
    """One image; of class 1, scoring 0.9, without crowds, unless told."""
    n, m = len(areas), len(truth_areas)
    return Matches(
        scores=np.array([0.9] * n if scores is None else scores, np.float32),
        labels=np.array([1] * n if labels is None else labels, np.int64),
        found=np.full(n, -1),
        ignored=np.array([False] * n if ignored is None else ignored, np.bool_),
        truth=np.array([1] * m if truth is None else truth, np.int64),
        crowd=np.array([False] * m if crowd is None else crowd, np.bool_),
        iou=np.array(iou, np.float64).reshape(n, m),
        areas=np.array(areas, np.float64),
        truth_areas=np.array(truth_areas, np.float64),
    )


# Detection 0 is object 0 but for a fifth (80 of 100 pixels), 1 covers half of object 1 (50 of 100), 2 covers nothing.
SQUARES = ([[0.8, 0, 0], [0, 0.5, 0], [0, 0, 0]], [80, 50, 10], [100, 100, 30])


def test_squares_by_hand() -> None:
    one = instances([_image(*SQUARES)], ["cell"], [0.5]).classes[0]
    assert [(at.iou, at.TP, at.FP, at.FN) for at in one.at] == [(0.5, 2, 1, 1), (0.75, 1, 2, 2), (0.9, 0, 3, 3)]
    assert [at.accuracy for at in one.at] == pytest.approx([2 / 4, 1 / 5, 0])
    assert [at.F1 for at in one.at] == pytest.approx([2 / 3, 1 / 3, 0])
    # Panoptic quality pairs above 0.5, not at it.
    assert pytest.approx((0.8, 1 / 3, 0.8 / 3)) == (one.SQ, one.RQ, one.PQ)
    assert pytest.approx((80 + 50) / (100 + 100 + 30 + 10)) == one.AJI


def test_several_objects_may_take_one_detection_for_aji() -> None:
    # Two objects of 100 merged into one detection of 200: unions of 200 each, nothing left over.
    one = instances([_image([[0.5, 0.5]], [200], [100, 100])], ["cell"], [0.5]).classes[0]
    assert pytest.approx(200 / 400) == one.AJI
    assert (one.at[0].TP, one.at[0].FP, one.at[0].FN) == (1, 0, 1)


@pytest.mark.parametrize(
    ("image", "counts", "why"),
    [
        (_image(*SQUARES, scores=[0.9, 0.5, 0.4]), (1, 0, 2), "a score must exceed its threshold"),
        (_image(*SQUARES, ignored=[False, False, True]), (2, 0, 1), "inside a crowd region a detection is not false"),
        (_image(*SQUARES, crowd=[False, False, True]), (2, 1, 0), "a crowd region need not be found"),
        (_image(*SQUARES, labels=[1, 2, 2]), (1, 0, 2), "a detection of another class finds nothing"),
        (_image(*SQUARES, truth=[1, 2, 2]), (1, 2, 0), "an object of another class is not missed"),
        (_image([], [10, 20], []), (0, 2, 0), "no objects"),
        (_image([], [], [10, 20]), (0, 0, 2), "no detections"),
        (_image([], [], []), (0, 0, 0), "an empty image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_counted(image: Matches, counts: tuple[int, int, int], why: str) -> None:
    at = instances([image], ["cell", "other"], [0.5, 0.5]).classes[0].at[0]
    assert counts == (at.TP, at.FP, at.FN), why


def test_a_figure_of_nothing_is_minus_one_and_not_part_of_the_mean() -> None:
    found = instances([_image(*SQUARES), _image([], [], [])], ["cell", "never"], [0.5, 0.5])
    cell, never = found.classes
    assert (never.PQ, never.SQ, never.RQ, never.AJI) == (-1, -1, -1, -1)
    assert all((at.accuracy, at.F1) == (-1, -1) for at in never.at)
    assert (found.mean.PQ, found.mean.AJI) == (cell.PQ, cell.AJI)
    assert [(at.TP, at.FP, at.FN) for at in found.mean.at] == [(at.TP, at.FP, at.FN) for at in cell.at]
    missed = instances([_image([], [], [10])], ["cell"], [0.5]).classes[0]
    assert (missed.PQ, missed.RQ, missed.AJI, missed.SQ) == (0, 0, 0, -1)


@pytest.mark.parametrize("seed", range(20))
def test_pairs_are_the_best_of_all_pairings(seed: int) -> None:
    """As many as possible, then of the largest IoU: objects overlap, so that a greedy choice would go wrong."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 6, 2)
    iou = rng.uniform(0.3, 1, (n, m))
    one = instances([_image(iou, [100] * n, [100] * m)], ["cell"], [0.5]).classes[0]
    square = np.zeros((max(n, m), max(n, m)))
    square[:n, :m] = iou

    def best(reached: Any) -> tuple[int, float]:
        pairings = (square[np.arange(len(square)), list(order)] for order in permutations(range(len(square))))
        return max((int(reached(pairs).sum()), float(pairs[reached(pairs)].sum())) for pairs in pairings)

    assert [at.TP for at in one.at] == [best(lambda pairs, least=least: pairs >= least)[0] for least in IOUS]
    count, total = best(lambda pairs: pairs > 0.5)
    assert pytest.approx(2 * total / (n + m)) == one.PQ
    assert pytest.approx(2 * count / (n + m)) == one.RQ
