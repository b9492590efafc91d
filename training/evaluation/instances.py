"""How well objects are told apart: the figures of the cell and nucleus literature, at one score threshold a class.

Detections and objects of one class are paired so that as many pairs as possible reach an IoU, and then so that the sum
of their IoU is largest (Caicedo et al., Nature Methods 2019): TP are the pairs, FP the detections and FN the objects
without one, summed over all images. Crowd regions are no objects, and detections inside one count for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.optimize import linear_sum_assignment

from training.evaluation.matching import Matches

IOUS = (0.5, 0.75, 0.9)
"""Where the literature counts pairs."""


class Pairs(BaseModel):
    """TP, FP and FN at one IoU. A share of nothing is -1.

    accuracy: TP / (TP + FP + FN), StarDist's name for what cellpose and the Data Science Bowl call average precision.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    iou: float
    TP: int
    FP: int
    FN: int
    accuracy: float
    F1: float


class ClassInstances(BaseModel):
    """One class, or the mean of classes; by the IoU and areas of masks, or of boxes. A figure of nothing is -1.

    PQ: panoptic quality (Kirillov et al., arXiv 1801.00868, Equation 1), the sum of the IoU of pairs above 0.5 over
    TP + FP/2 + FN/2. SQ, its first factor: the mean IoU of these pairs. RQ, its second: F1 at that IoU.
    AJI: aggregated Jaccard index (Kumar et al., IEEE TMI 2017) of an image, the mean over images with anything of the
    class. Each object takes the detection of the highest IoU, which several may take; intersections over unions, and
    the area of detections that none took is added to the unions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    at: tuple[Pairs, ...]
    PQ: float
    SQ: float
    RQ: float
    AJI: float


class Instances(BaseModel):
    """Each class, and the mean over the classes that have a figure; its TP, FP and FN are sums."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: ClassInstances
    classes: tuple[ClassInstances, ...]


def instances(matches: Sequence[Matches], class_names: Sequence[str], thresholds: Sequence[float]) -> Instances:
    """The figures of detections that score more than their class's threshold; thresholds for labels 1..C."""
    classes = tuple(
        _class(name, [_Image.of(image, label, threshold) for image in matches])
        for label, (name, threshold) in enumerate(zip(class_names, thresholds, strict=True), 1)
    )
    at = tuple(_sum(column) for column in zip(*(one.at for one in classes), strict=True))
    mean = ClassInstances(
        name="mean",
        at=at,
        PQ=_mean(one.PQ for one in classes),
        SQ=_mean(one.SQ for one in classes),
        RQ=_mean(one.RQ for one in classes),
        AJI=_mean(one.AJI for one in classes),
    )
    return Instances(mean=mean, classes=classes)


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """One class in one image: IoU float64 [N, M] of its kept detections and its objects, and the areas of each."""

    iou: NDArray[np.float64]
    areas: NDArray[np.float64]
    truth_areas: NDArray[np.float64]

    @classmethod
    def of(cls, image: Matches, label: int, threshold: float) -> _Image:
        rows = (image.labels == label) & ~image.ignored & (image.scores > np.float32(threshold))
        columns = (image.truth == label) & ~image.crowd
        return cls(image.iou[np.ix_(rows, columns)], image.areas[rows], image.truth_areas[columns])

    def pairs(self, least: float, above: bool = False) -> NDArray[np.float64]:
        """The IoU of the pairs that reach `least`, or exceed it."""
        reach = self.iou > least if above else self.iou >= least
        # Any pair more outweighs all that their IoU can differ by.
        worth = np.where(reach, 1 + self.iou / (min(self.iou.shape) + 1), 0)
        paired = np.zeros_like(reach)
        paired[linear_sum_assignment(worth, maximize=True)] = True
        return self.iou[paired & reach]

    def jaccard(self) -> float | None:
        """None where the image has nothing of the class."""
        if not self.iou.size:
            return 0.0 if len(self.areas) or len(self.truth_areas) else None
        # |A & B| from IoU = |A & B| / (|A| + |B| - |A & B|)
        both = self.iou * (self.areas[:, None] + self.truth_areas) / (1 + self.iou)
        taken, objects = self.iou.argmax(0), np.arange(len(self.truth_areas))
        common = both[taken, objects]
        alone = common == 0
        unions = np.where(alone, self.truth_areas, self.areas[taken] + self.truth_areas - common)
        left = np.delete(self.areas, taken[~alone])
        return float(common.sum() / (unions.sum() + left.sum()))


def _class(name: str, images: Sequence[_Image]) -> ClassInstances:
    detections = sum(len(image.areas) for image in images)
    objects = sum(len(image.truth_areas) for image in images)
    found = [(iou, sum(len(image.pairs(iou)) for image in images)) for iou in IOUS]
    paired = np.concatenate([np.zeros(0), *(image.pairs(0.5, above=True) for image in images)])
    rq = _pairs(0.5, len(paired), detections - len(paired), objects - len(paired)).F1
    sq = float(paired.mean()) if len(paired) else -1.0
    jaccard = [value for image in images if (value := image.jaccard()) is not None]
    return ClassInstances(
        name=name,
        at=tuple(_pairs(iou, count, detections - count, objects - count) for iou, count in found),
        PQ=sq * rq if len(paired) else rq,
        SQ=sq,
        RQ=rq,
        AJI=_mean(jaccard),
    )


def _pairs(iou: float, matched: int, false: int, missed: int) -> Pairs:
    everything = matched + false + missed
    accuracy = matched / everything if everything else -1.0
    f1 = 2 * matched / (everything + matched) if everything else -1.0
    return Pairs(iou=iou, TP=matched, FP=false, FN=missed, accuracy=accuracy, F1=f1)


def _sum(column: Sequence[Pairs]) -> Pairs:
    """Counts are added; shares are means of the classes that have one."""
    total = [sum(getattr(one, count) for one in column) for count in ("TP", "FP", "FN")]
    summed = _pairs(column[0].iou, *total)
    shares = {share: _mean(getattr(one, share) for one in column) for share in ("accuracy", "F1")}
    return summed.model_copy(update=shares)


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if value >= 0]
    return sum(known) / len(known) if known else -1.0
