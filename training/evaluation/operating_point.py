"""A detector at one score threshold a class: what it finds, misses, makes up and mixes up; and the best thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from training.evaluation.matching import MATCH_IOU, Matches

RECALLS = np.linspace(0, 1, 101)
"""Where curves are sampled, as COCO does."""


class Counts(NamedTuple):
    """Objects that were found (matched) and not (missed), and detections of nothing (false)."""

    matched: int
    missed: int
    false: int

    def f1(self) -> float:
        """Harmonic mean of precision and recall, -1 where there is nothing and nothing was said to be."""
        return _share(2 * self.matched, 2 * self.matched + self.missed + self.false)


class Curve(BaseModel):
    """Precision at recall 0, 0.01, ..., 1, the best at that recall or more, and the score that a detection needs there.

    Both are 0 where no threshold reaches the recall, and empty for a class without objects.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: tuple[float, ...]
    score: tuple[float, ...]


class ClassPoint(BaseModel):
    """One class. Its figures hold for detections that score more than `threshold`; a share of nothing is -1.

    best_threshold maximizes F1 (to best_F1; of several the highest); None where the class was never found.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    threshold: float
    matched: int
    missed: int
    false: int
    precision: float
    recall: float
    F1: float
    best_threshold: float | None
    best_F1: float
    curve: Curve


class OperatingPoint(BaseModel):
    """Counts over a dataset at score thresholds, a detection and an object matching at `iou` or more.

    confusion[t][p] counts objects of class t that were taken for class p: matched ones on the diagonal. The last row
    holds false detections where there is no object, the last column objects where there is no detection.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    iou: float
    classes: tuple[ClassPoint, ...]
    confusion: tuple[tuple[int, ...], ...]


def operating_point(
    matches: Sequence[Matches],
    class_names: Sequence[str],
    floor: float,
    default_threshold: float,
    threshold: float | None = None,
) -> OperatingPoint:
    """The counts at `threshold`; without one at each class's best, or `default_threshold` where that is unknown.

    floor: the score that all detections in `matches` exceed.
    """
    best = [_best(matches, label, floor) for label in range(1, len(class_names) + 1)]
    known = [default_threshold if one.threshold is None else one.threshold for one in best]
    thresholds = known if threshold is None else [threshold] * len(class_names)
    confusion = sum((confused(image, thresholds) for image in matches), _no_confusion(len(class_names)))
    classes = []
    for index, name in enumerate(class_names):
        matched = int(confusion[index, index])
        missed = int(confusion[index].sum()) - matched
        false = int(confusion[:, index].sum()) - matched
        point = ClassPoint(
            name=name,
            threshold=thresholds[index],
            matched=matched,
            missed=missed,
            false=false,
            precision=_share(matched, matched + false),
            recall=_share(matched, matched + missed),
            F1=Counts(matched, missed, false).f1(),
            best_threshold=best[index].threshold,
            best_F1=best[index].f1,
            curve=_curve(matches, index + 1),
        )
        classes.append(point)
    return OperatingPoint(iou=MATCH_IOU, classes=tuple(classes), confusion=tuple(map(tuple, confusion.tolist())))


def best_thresholds(matches: Sequence[Matches], class_names: Sequence[str], floor: float) -> dict[str, float]:
    """The score threshold that maximizes F1, for each class that was found at all; as `operating_point` has it."""
    best = {name: _best(matches, label, floor).threshold for label, name in enumerate(class_names, 1)}
    return {name: threshold for name, threshold in best.items() if threshold is not None}


def confused(image: Matches, thresholds: Sequence[float]) -> NDArray[np.int64]:
    """One image's int64 [C + 1, C + 1], as `OperatingPoint.confusion`; thresholds for labels 1..C.

    Detections that found no object of their class take, by falling score, the missed object that they cover best.
    """
    background = len(thresholds)
    counts = _no_confusion(background)
    kept = ~image.ignored & (image.scores > np.array(thresholds, np.float32)[image.labels - 1])
    missed = ~image.crowd
    for row in np.flatnonzero(kept & (image.found >= 0)):
        missed[image.found[row]] = False
        counts[image.labels[row] - 1, image.labels[row] - 1] += 1
    for row in np.flatnonzero(kept & (image.found < 0)):
        ious = np.where(missed, image.iou[row], 0.0)
        taken = background
        if len(ious) and ious.max() >= MATCH_IOU:
            chosen = int(ious.argmax())
            missed[chosen] = False
            taken = int(image.truth[chosen]) - 1
        counts[taken, image.labels[row] - 1] += 1
    np.add.at(counts[:, background], image.truth[missed] - 1, 1)
    return counts


def image_counts(image: Matches, thresholds: Sequence[float]) -> Counts:
    """One image's objects and detections of all classes; thresholds for labels 1..C."""
    counts = confused(image, thresholds)
    matched = int(np.trace(counts))
    return Counts(matched, int(counts[:-1].sum()) - matched, int(counts[:, :-1].sum()) - matched)


class _Best(NamedTuple):
    threshold: float | None
    f1: float


class _Sweep(NamedTuple):
    """A class at each of its S distinct scores, falling: how many detections score that or more, and match."""

    scores: NDArray[np.float32]
    detections: NDArray[np.int64]
    matched: NDArray[np.int64]
    objects: int


def _sweep(matches: Sequence[Matches], label: int) -> _Sweep:
    """Equal scores go together: no threshold tells them apart."""
    rows = [(image.labels == label) & ~image.ignored for image in matches]
    scores = np.concatenate([image.scores[of] for image, of in zip(matches, rows, strict=True)])
    right = np.concatenate([image.found[of] >= 0 for image, of in zip(matches, rows, strict=True)])
    order = np.argsort(-scores, kind="stable")
    scores, matched = scores[order], np.cumsum(right[order])
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, np.int64)
    objects = sum(int(((image.truth == label) & ~image.crowd).sum()) for image in matches)
    return _Sweep(scores[last], last + 1, matched[last], objects)


def _best(matches: Sequence[Matches], label: int, floor: float) -> _Best:
    sweep = _sweep(matches, label)
    if not len(sweep.scores) or not sweep.matched[-1]:
        return _Best(None, 0.0 if sweep.objects else -1.0)
    f1 = 2 * sweep.matched / (sweep.detections + sweep.objects)
    chosen = int(f1.argmax())  # the first of equals, which is the highest score
    below = float(sweep.scores[chosen + 1]) if chosen + 1 < len(sweep.scores) else floor
    return _Best(_between(below, float(sweep.scores[chosen])), float(f1[chosen]))


def _between(low: float, high: float) -> float:
    """A threshold that lets `high` through and `low` not: about midway, for runtimes round scores differently, but
    with as few digits as will do, for people read it.
    """
    for digits in range(2, 8):
        value = round((low + high) / 2, digits)
        if np.float32(low) <= np.float32(value) < np.float32(high):
            return value
    return low


def _curve(matches: Sequence[Matches], label: int) -> Curve:
    sweep = _sweep(matches, label)
    if not sweep.objects:
        return Curve(precision=(), score=())
    recall, precision = sweep.matched / sweep.objects, sweep.matched / sweep.detections
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS)
    return Curve(
        precision=tuple(np.append(envelope, 0.0)[at].tolist()),
        score=tuple(np.append(sweep.scores, np.float32(0)).astype(float)[at].tolist()),
    )


def _no_confusion(classes: int) -> NDArray[np.int64]:
    return np.zeros((classes + 1, classes + 1), np.int64)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else -1.0
